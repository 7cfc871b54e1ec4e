//! `/upstreams/NAME/short_share`: what the live split is, and another share for it.

use http::header::ORIGIN;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::Response;
use hyper::body::Incoming;
use tracing::info;

use crate::json::Json;
use crate::server::Control;
use crate::split::{Share, Split};

use super::site::{Body, TEXT, json, text};

/// The longest body that is read: a number.
const LONGEST: usize = 64;

/// Answers a question, or does as it is told.
pub(super) async fn answer(
    control: &Control,
    upstream: &str,
    request: &mut Request<Incoming>,
) -> Response<Body> {
    let upstreams = control.upstreams();
    let Some(known) = upstreams.iter().find(|known| known.name == upstream) else {
        let names: Vec<_> = upstreams.iter().map(|known| known.name.as_str()).collect();
        let names = names.join(", ");
        let words = format!("There is no such upstream; there is: {names}\n");
        return text(StatusCode::NOT_FOUND, TEXT, words);
    };
    let Some(split) = &known.split else {
        let words = "It has no split: write `short_share = 0` into its table and reload, and one can be asked for here.\n";
        return text(StatusCode::NOT_FOUND, TEXT, words);
    };
    if request.method() != Method::POST {
        return json(shown(split).to_string());
    }
    // A page of another site may lead a browser here; a program names no origin.
    if request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site") {
        return text(StatusCode::FORBIDDEN, TEXT, "Not for browsers.\n");
    }
    let body = Limited::new(request.body_mut(), LONGEST).collect().await;
    let share = body.ok().and_then(|body| {
        let bytes = body.to_bytes();
        Share::read(std::str::from_utf8(&bytes).ok()?).ok()
    });
    let Some(share) = share else {
        let words =
            "A part of the requests is needed as the body, from 0 to 1, such as 0.05 or 5%.\n";
        return text(StatusCode::BAD_REQUEST, TEXT, words);
    };
    let before = split.set(share);
    info!(
        upstream,
        "the short arm's share is {share} from now on, asked for at the admin listener; it was {before}"
    );
    json(shown(split).to_string())
}

/// A split as it is now.
pub(super) fn shown(split: &Split) -> Json {
    let stopped = split.stopped().map(|why| Json::from(why.label()));
    Json::Object(vec![
        ("asked", split.asked().part().into()),
        ("in_force", split.in_force().part().into()),
        ("stopped", stopped.unwrap_or(Json::Null)),
    ])
}
