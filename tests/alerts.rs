//! The alert rules and the dashboard in `config/`: they ask for what there is, and fire when they should.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The metrics that `text` names; of a histogram, its family.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c));
    words
        .filter(|word| word.starts_with("warmline_"))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        .collect()
}

/// That the document lists what the page has, and no more, is tested in `tests/lifecycle/admin.rs`.
#[test]
fn every_metric_that_is_asked_for_is_on_the_page() {
    let document = read("docs/measure.md");
    for path in [
        "config/prometheus-alerts.yml",
        "config/prometheus-alerts.test.yml",
        "config/grafana-dashboard.json",
    ] {
        let text = read(path);
        let named = metrics(&text);
        assert!(named.len() > 6, "{path} names metrics: {named:?}");
        for metric in named {
            let row = format!("\n| `{metric}` | ");
            assert!(document.contains(&row), "{path} asks for {metric}");
        }
    }
}

#[test]
fn the_dashboards_panels_have_something_to_show_and_do_not_overlap() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("config/grafana-dashboard.json")).unwrap();
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = &panel["gridPos"];
        assert!(
            places.insert((place["x"].as_u64(), place["y"].as_u64())),
            "{panel}"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            assert!(
                !metrics(target["expr"].as_str().unwrap()).is_empty(),
                "{target}"
            );
        }
    }
    assert!(places.len() > 10);
}

#[test]
fn promtool_finds_the_rules_sound_and_they_fire_when_they_should() {
    for args in [
        ["check", "rules", "config/prometheus-alerts.yml"],
        ["test", "rules", "config/prometheus-alerts.test.yml"],
    ] {
        let output = match Command::new("promtool")
            .args(args)
            .current_dir(ROOT)
            .output()
        {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Past the test harness, which keeps what passing tests print to itself.
                let _ = writeln!(
                    io::stderr(),
                    "SKIPPED promtool {}: not installed (`apt-get install prometheus`)",
                    args.join(" ")
                );
                continue;
            }
            Err(error) => panic!("promtool: {error}"),
        };
        assert!(
            output.status.success(),
            "promtool {}:\n{}{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
