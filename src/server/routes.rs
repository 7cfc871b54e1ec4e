//! Routes, and what is asked for on them otherwise.

use super::{Settings, StartError};
use crate::client;
use crate::proxy::{Otherwise, Way};
use crate::route::{self, Router};

/// A route, and what is asked for on it otherwise than elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Which requests take it, and what becomes of them.
    pub route: route::RouteSettings,
    /// What is asked for otherwise for its requests.
    pub otherwise: Otherwise,
}

impl From<route::RouteSettings> for RouteSettings {
    /// One on which all is as elsewhere.
    fn from(route: route::RouteSettings) -> RouteSettings {
        RouteSettings {
            route,
            otherwise: Otherwise::default(),
        }
    }
}

/// The routes, to upstreams by index.
pub(super) fn router(settings: &Settings) -> Result<Router<Way>, StartError> {
    let mut routes = Vec::new();
    for RouteSettings { route, otherwise } in &settings.routes {
        let index = |name: &str| {
            let mut upstreams = settings.upstreams.iter();
            let index = upstreams.position(|upstream| upstream.name == name);
            index.ok_or_else(|| StartError::NoUpstream(name.to_owned()))
        };
        let upstream = route.upstream().map(index).transpose()?;
        routes.push((
            route.host.as_deref(),
            route.path.clone(),
            route.conditions.clone(),
            Way::of(route, upstream, otherwise),
        ));
    }
    Ok(Router::of(routes))
}

/// What routes ask for otherwise of the client's side.
pub(super) fn overrides(settings: &Settings) -> Vec<client::Overrides> {
    let routes = settings.routes.iter();
    routes.map(|route| route.otherwise.client.clone()).collect()
}
