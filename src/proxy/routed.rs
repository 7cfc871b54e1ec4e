//! A request on its route: who answers it, and what the route changes of it and of the response.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode, request};

use super::Failure;
use super::body::RelayBody;
use super::headers::RequestFacts;
use super::record::Record;
use super::response::say_connection;
use crate::account::Outcome;
use crate::client::{Conn, Overrides, answer};
use crate::route::{
    Action, Asked, Changed, Changes, Facts, PathMatch, Redirect, Respond, Rewrite, RouteSettings,
    Scheme,
};

/// Where a route leads.
#[derive(Clone, Debug)]
pub struct Way {
    /// The upstream, by its index; `None`: the proxy answers by itself.
    upstream: Option<usize>,
    /// What is asked for beside that, if anything is: most routes lead to an upstream and do nothing else.
    more: Option<Box<More>>,
}

/// What else a route asks for.
#[derive(Clone, Debug)]
struct More {
    path: PathMatch,
    own: Option<Own>,
    rewrite: Option<Rewrite>,
    changes: Changes,
    otherwise: Otherwise,
}

/// An answer of a route's own.
#[derive(Clone, Debug)]
enum Own {
    Redirect(Redirect),
    Respond(Respond),
}

/// What is asked for on a route otherwise than elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Otherwise {
    /// Than for the clients of the listener and the virtual host.
    pub client: Overrides,
    /// Than the upstream's [`timeout`](crate::backend::Settings::timeout).
    pub backend_timeout: Option<Duration>,
    /// Than the upstream's [`retry_body`](crate::backend::Settings::retry_body).
    pub retry_body: Option<u64>,
}

/// What a route has made of one request.
pub(super) struct Routed {
    pub(super) to: To,
    /// What it changes of the response's headers.
    pub(super) response: Changed,
}

/// Who answers one request.
pub(super) enum To {
    Upstream(Lead),
    Own(Answer),
}

/// What one request asks of its upstream.
pub(super) struct Lead {
    /// The upstream, by its index.
    pub(super) upstream: usize,
    /// In place of its own settings.
    pub(super) timeout: Option<Duration>,
    pub(super) retry_body: Option<u64>,
    /// What is changed of the request's headers once they are those for the backend.
    pub(super) request: Changed,
}

/// The answer of a route's own to one request.
pub(super) struct Answer {
    status: StatusCode,
    location: Option<HeaderValue>,
    content_type: HeaderValue,
    body: Bytes,
}

impl Way {
    /// To the upstream of this index.
    pub fn to(upstream: usize) -> Way {
        Way {
            upstream: Some(upstream),
            more: None,
        }
    }

    /// That of a route whose upstream, if it has one, has this index.
    pub fn of(route: &RouteSettings, upstream: Option<usize>, otherwise: &Otherwise) -> Way {
        let own = match &route.action {
            Action::Upstream(_) => None,
            Action::Redirect(redirect) => Some(Own::Redirect(redirect.clone())),
            Action::Respond(respond) => Some(Own::Respond(respond.clone())),
        };
        let is_plain = own.is_none()
            && route.rewrite.is_none()
            && route.changes == Changes::default()
            && *otherwise == Otherwise::default();
        let more = More {
            path: route.path.clone(),
            own,
            rewrite: route.rewrite.clone(),
            changes: route.changes.clone(),
            otherwise: otherwise.clone(),
        };
        Way {
            upstream,
            more: (!is_plain).then(|| Box::new(more)),
        }
    }

    /// What is asked for on it of the client's side.
    pub(super) fn client(&self) -> Option<&Overrides> {
        self.more.as_ref().map(|more| &more.otherwise.client)
    }

    /// Takes a request this way.
    ///
    /// # Errors
    /// [`Failure`] with status 400: its path cannot be rewritten so; with 404: nobody answers.
    pub(super) fn take(
        &self,
        client: &Conn,
        record: &mut Record,
        parts: &mut request::Parts,
    ) -> Result<Routed, Failure> {
        match (&self.more, self.upstream) {
            (None, Some(upstream)) => Ok(Routed {
                to: To::Upstream(Lead {
                    upstream,
                    timeout: None,
                    retry_body: None,
                    request: Changed::default(),
                }),
                response: Changed::default(),
            }),
            (Some(more), upstream) => {
                let named = record.named();
                let ip = named.as_ref().map_or(client.ip(), |named| &named.text);
                more.take(upstream, (scheme(client), ip), parts)
            }
            (None, None) => Err(Failure::NoRoute),
        }
    }
}

impl More {
    fn take(
        &self,
        upstream: Option<usize>,
        (scheme, ip): (Scheme, &HeaderValue),
        parts: &mut request::Parts,
    ) -> Result<Routed, Failure> {
        let groups = self.path.groups(parts.uri.path());
        let facts = Facts {
            host: RequestFacts::host(parts),
            client: ip,
            scheme,
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            groups: &groups,
            id: new_id(),
        };
        let response = self.changes.response.fill(&facts);
        if let Some(own) = &self.own {
            return Ok(Routed {
                to: To::Own(own.answer(&facts)?),
                response,
            });
        }
        let lead = Lead {
            upstream: upstream.ok_or(Failure::NoRoute)?,
            timeout: self.otherwise.backend_timeout,
            retry_body: self.otherwise.retry_body,
            request: self.changes.request.fill(&facts),
        };
        let rewritten = self.rewrite.as_ref().map(|rewrite| rewrite.apply(&facts));
        if let Some(uri) = rewritten {
            parts.uri = uri.ok_or(Failure::BadRequest("The path cannot be rewritten."))?;
        }
        Ok(Routed {
            to: To::Upstream(lead),
            response,
        })
    }
}

impl Own {
    fn answer(&self, facts: &Facts<'_>) -> Result<Answer, Failure> {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        Ok(match self {
            Own::Redirect(redirect) => {
                let location = Bytes::from(redirect.to.fill_location(facts));
                let location = HeaderValue::from_maybe_shared(location)
                    .map_err(|_| Failure::BadRequest("The path cannot be rewritten."))?;
                Answer {
                    status: redirect.status,
                    location: Some(location),
                    content_type: plain,
                    body: answer::text(redirect.status, "See the Location header.").into(),
                }
            }
            Own::Respond(respond) => Answer {
                status: respond.status,
                location: None,
                content_type: respond.content_type.clone(),
                body: respond.body(facts).into(),
            },
        })
    }
}

impl Answer {
    /// The response.
    pub(super) fn give(
        self,
        client: &Conn,
        request: &RequestFacts,
        record: Record,
    ) -> Response<RelayBody> {
        client.socket().send_own_head();
        let has_body = !self.body.is_empty();
        let status = self.status;
        let body = RelayBody::own(client, status.as_u16(), self.body, Outcome::Own, record);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, self.content_type);
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, location);
        }
        say_connection(client, headers, Some(request), true, request.ends);
        response
    }
}

/// What routes go by of a request, beside host and path.
pub(super) fn asked<'a>(client: &Conn, parts: &'a request::Parts) -> Asked<'a> {
    Asked {
        scheme: scheme(client),
        method: &parts.method,
        headers: &parts.headers,
    }
}

fn scheme(client: &Conn) -> Scheme {
    Scheme::of(client.socket().is_tls())
}

/// A number for one request, for `$request_id`: not to be told from others' by chance, and no secret.
fn new_id() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_have_one_number() {
        let mut ids: Vec<_> = (0..1000).map(|_| new_id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_route_to_an_upstream_alone_asks_for_nothing_more() {
        let route = RouteSettings::to("/", "app");
        assert!(
            Way::of(&route, Some(0), &Otherwise::default())
                .more
                .is_none()
        );
        let otherwise = Otherwise {
            retry_body: Some(0),
            ..Otherwise::default()
        };
        assert!(Way::of(&route, Some(0), &otherwise).more.is_some());
    }
}
