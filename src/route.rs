//! Host and path of a request → the route it takes. The most specific route wins.

/// A route as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The host it is for: exact (`shop.example`), or every name below one (`*.shop.example`).
    /// `None` is any host. Without a port; compared without regard to case.
    pub host: Option<String>,
    /// The path prefix it is for, starting with `/`. Matches whole segments: `/api` is for `/api`
    /// and `/api/x`, not for `/apiary`; `/api/` only for what lies below it.
    pub path: String,
    /// The name of the upstream that answers.
    pub upstream: String,
}
