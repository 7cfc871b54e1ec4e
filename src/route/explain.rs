//! Which routes were tried for a request, and why each was not taken.

use super::matching::{Asked, Unmet};
use super::{RouteSettings, Router};

/// One route that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried<'a> {
    /// Its number in the settings, from 0 on.
    pub route: usize,
    /// Why it is not for the request; `None` if it is.
    pub why: Option<WhyNot<'a>>,
}

/// Why a route is not for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot<'a> {
    /// It is for other paths.
    Path,
    /// Something else is not as it asks for.
    Unmet(Unmet<'a>),
}

impl std::fmt::Display for WhyNot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WhyNot::Path => f.write_str("it is for other paths"),
            WhyNot::Unmet(unmet) => unmet.fmt(f),
        }
    }
}

/// The routes that come into question for a request to `host`, in the order they are tried in, up to the one that
/// it takes and with it. If none is for it they are all of them.
pub fn tried<'r>(
    routes: &'r [RouteSettings],
    host: Option<&str>,
    path: &str,
    asked: &Asked<'_>,
) -> Vec<Tried<'r>> {
    let all = Router::of(routes.iter().enumerate().map(|(number, route)| {
        let (path, conditions) = (route.path.clone(), route.conditions.clone());
        (route.host.as_deref(), path, conditions, number)
    }));
    let mut tried = Vec::new();
    for &route in all.in_order(host) {
        let settings = &routes[route];
        let why = if settings.path.is_for(path) {
            settings.conditions.unmet(asked).map(WhyNot::Unmet)
        } else {
            Some(WhyNot::Path)
        };
        tried.push(Tried { route, why });
        if why.is_none() {
            break;
        }
    }
    tried
}
