//! Whom the admin listener answers: a page of another site must not read it through its visitor's
//! browser, under a name of its own that it has lead to this machine (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

/// Whether a request that names this `Host` is for a listener at `address`.
///
/// A browser always names the host that its user went to. `None`, which only programs send, is
/// answered.
pub(super) fn is_ours(host: Option<&str>, address: SocketAddr) -> bool {
    let Some(host) = host else { return true };
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    name.parse::<IpAddr>().is_ok_and(|ip| {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip == address.ip().to_canonical()
    })
}

/// `[::1]:80` → `::1`, `a.example:80` → `a.example`.
fn without_port(host: &str) -> &str {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_listened_address_are_answered_and_no_other_name() {
        let address = "10.0.0.5:9180".parse().unwrap();
        for (host, ours) in [
            (None, true),
            (Some("localhost"), true),
            (Some("LocalHost:9180"), true),
            (Some("a.localhost:1"), true),
            (Some("127.0.0.1:9180"), true),
            (Some("127.3.2.1"), true),
            (Some("[::1]:9180"), true),
            (Some("[::ffff:127.0.0.1]"), true),
            (Some("10.0.0.5:80"), true),
            (Some("10.0.0.6"), false),
            (Some("evil.example"), false),
            (Some("evil.example:9180"), false),
            (Some("localhost.evil.example"), false),
            (Some("notlocalhost"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some(""), false),
        ] {
            assert_eq!(is_ours(host, address), ours, "{host:?}");
        }
    }
}
