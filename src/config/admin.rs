//! `[admin]` → where the proxy's figures can be asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use toml::de::DeTable;

use super::file::single;
use super::read::Reader;
use super::report::Finding;
use super::values::switch;
use super::{address, keys};
use crate::server::{AdminAddress, AdminSettings};

/// Where it listens if the table says nothing else.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// Where, and for whom; `None` without the table.
pub(super) fn admin(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Option<AdminSettings> {
    let section = single(root, &keys::ADMIN, reader)?;
    let address = reader.read_or(&section, "address", AdminAddress::Ip(ADDRESS), |scalar| {
        Ok::<_, address::Wrong>(match address::unix(&scalar.text)? {
            Some(path) => AdminAddress::Unix(PathBuf::from(path)),
            None => AdminAddress::Ip(address::listen(&scalar.text)?),
        })
    })?;
    let public = switch(reader, &section, "public").unwrap_or(false);
    let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    if !public && !address.ip().is_none_or(is_local) {
        let span = section.value_span("address");
        reader.note(
            Finding::fault(format!("{address} is not on this machine alone"))
                .at(
                    span.unwrap_or_else(|| section.span.clone()),
                    "anybody who gets there may ask",
                )
                .help("write `public = true` if that is meant, or an address such as \"127.0.0.1:9180\""),
        );
    }
    Some(AdminSettings { address, public })
}
