//! Warmline beside a real Apache httpd: the same conversations with both, from equal settings.
//!
//! One prober plays every conversation of the table against httpd (event MPM, `mod_proxy`,
//! `mod_reqtimeout`) and against Warmline, each in front of the same kind of backend, in one run. For
//! each response it compares status, version, `Connection`, `Keep-Alive` and framing; then how many
//! there were, who ended the connection, how and when, and who is left with it in TIME_WAIT. The
//! table says in short what httpd does, so that it is a specification too: httpd is held to it as
//! well. Where Warmline differs on purpose, the table names the deviation, and docs/apache.md has to
//! list it.
//!
//! All of it runs in a network namespace of its own, which needs root; without, nobody looks at
//! TIME_WAIT.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers
#![allow(unreachable_pub)] // every file here is private to this program

mod conversation;
mod conversations;
mod deviations;
mod prober;
mod report;
mod response;
mod run;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use support::network;

#[test]
fn warmline_does_what_httpd_does() {
    let name = "warmline_does_what_httpd_does";
    network::or_here(name, &format!("{name}: TIME_WAIT is SKIPPED"), |table| {
        let conversations = conversations::all();
        let played = run::all(&conversations, table);
        let report = report::of(&played);
        assert!(report.failures.is_empty(), "{report}");
        eprintln!("{report}");
    });
}

#[test]
fn every_deviation_is_listed_and_every_one_listed_as_shown_is_shown() {
    let listed = deviations::listed();
    let conversations = conversations::all();
    let used: BTreeSet<_> = conversations
        .iter()
        .filter_map(|conversation| Some(conversation.differs.as_ref()?.0))
        .collect();
    for name in &used {
        assert_eq!(listed.get(*name), Some(&true), "{name} is listed as shown");
    }
    let shown = listed.iter().filter(|(_, shown)| **shown);
    for (name, _) in shown {
        assert!(used.contains(name.as_str()), "{name} is shown by none");
    }
}

#[test]
fn conversations_have_names_of_their_own() {
    let mut names = BTreeSet::new();
    for conversation in conversations::all() {
        assert!(!conversation.httpd.is_empty(), "{}", conversation.name);
        assert!(
            names.insert(conversation.name.clone()),
            "{}",
            conversation.name
        );
    }
    assert!(names.len() >= 80, "only {} conversations", names.len());
}
