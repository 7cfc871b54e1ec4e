//! `warmline compare` finds what is there, and nothing else: equal arms are not told apart, and an arm that is
//! slower by a fifth is.
//!
//! A program of its own, so that no other test takes the processors while it measures.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::process::Command;

use warmline::compare::report::Report;
use warmline::compare::report::judge::{Figure, judge};

/// Short rounds of a client that sends one request at a time.
fn compare(args: &[&str]) -> Report {
    let output = Command::new(env!("CARGO_BIN_EXE_warmline"))
        .args(["compare", "--modes", "pooled,pooled", "-c", "1"])
        .args(["--rounds", "8", "--round", "150ms", "--warm-up", "200ms"])
        .args(["--json", "-"])
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The headline figures in which the second arm differs from the first, with the ratio.
fn differences(report: &Report) -> Vec<(Figure, f64)> {
    let judged = judge(report);
    let [only] = &judged[..] else {
        panic!("two arms make one comparison");
    };
    let headline = Figure::HEADLINE.into_iter();
    headline
        .filter_map(|figure| Some((figure, only.outcome(figure).difference()?.ratio)))
        .collect()
}

#[test]
fn equal_arms_are_told_apart_at_most_twice_in_twenty() {
    let mut alarms = Vec::new();
    for _ in 0..20 {
        let found = differences(&compare(&[]));
        if !found.is_empty() {
            alarms.push(found);
        }
    }
    eprintln!(
        "of 20 comparisons of equal arms {} found a difference: {alarms:?}",
        alarms.len()
    );
    assert!(alarms.len() <= 2, "{alarms:?}");
}

/// Each answer takes 2 ms of the backend's CPU, in the second arm a fifth more.
#[test]
fn a_fifth_is_found() {
    let report = compare(&["--backend-work", "2ms", "--handicap", "pooled-2=400us"]);
    let found = differences(&report);
    eprintln!("found: {found:?}");
    // Nothing else on the machine can hide it from the scheduler's clock.
    let cpu = found
        .iter()
        .find(|(figure, _)| *figure == Figure::BackendCpu);
    let (_, ratio) = cpu.unwrap_or_else(|| panic!("{found:?}"));
    assert!((1.05..1.35).contains(ratio), "{ratio}");
    // Of the rest, a busy machine may hide some, and turn none around.
    for (figure, ratio) in found {
        match figure {
            Figure::P50 | Figure::P99 => assert!(ratio > 1.0, "{}: {ratio}", figure.name()),
            Figure::Requests => assert!(ratio < 1.0, "{ratio}"),
            Figure::P90
            | Figure::P999
            | Figure::ProxyCpu
            | Figure::BackendCpu
            | Figure::Connects
            | Figure::Errors => {}
        }
    }
}
