//! The settings of the live split, listed and read.

use super::read::{Reader, Section};
use super::report::Finding;
use super::setting::{Default, Setting, Takes};
use crate::backend;
use crate::split::{By, Settings, Share};

/// `short_share`.
pub(super) const SHORT_SHARE: Setting = Setting {
    name: "short_share",
    alias: None,
    takes: Takes::Share,
    default: Default::None("there is no short arm"),
    meaning: "The part of the requests that go over connections of one request each, as `short_mode` has it, to compare both ways on the same traffic. 0 gives them none until another share is asked for, which can be done while the proxy runs.",
    apache: "none",
    nginx: "`split_clients`, between two upstreams",
};

/// `short_share_by`.
pub(super) const SHORT_SHARE_BY: Setting = Setting {
    name: "short_share_by",
    alias: None,
    takes: Takes::Key,
    default: Default::Is("\"request\""),
    meaning: "Which requests those are: each by itself, all of a client's address, or all with the same value of a header.",
    apache: "none",
    nginx: "`split_clients`, first argument",
};

/// Reads the split. One of nothing is one too: a share may be asked for later.
pub(super) fn split(
    upstream: &backend::Settings,
    section: &Section<'_>,
    reader: &mut Reader<'_>,
) -> Option<Settings> {
    let share = reader.read(section, "short_share", |scalar| Share::read(&scalar.text));
    let by = reader.read(section, "short_share_by", |scalar| By::read(&scalar.text));
    let span = section.value_span("short_share");
    if let Some(span) = span
        && !upstream.pool.keeps()
    {
        reader.note(
            Finding::fault(format!("{} keeps no connections", section.header))
                .at(span, "all of its requests are short already")
                .help("write `keep_alive = true`, or leave `short_share` out"),
        );
        return None;
    }
    Some(Settings {
        share: share?,
        by: by.unwrap_or_default(),
    })
}
