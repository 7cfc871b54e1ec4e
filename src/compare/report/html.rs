//! The report as one page: it needs no script and nothing from elsewhere, on screen and on paper.

use std::fmt::Write as _;

use super::judge::{self, Figure, Versus};
use super::page::{Picture, class, pictures};
use super::svg::escaped;
use super::text::{SOCKETS, confidence, question, ratio, sockets_of, value};
use super::verdict::{notes, verdicts};
use super::words::{bytes, digits, range, within};
use super::{Arm, Report};
use crate::quantity::grouped;

/// All of it.
pub fn html(report: &Report) -> String {
    let judged = judge::judge(report);
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>Warmline: ",
    );
    let names: Vec<&str> = report.arms.iter().map(|arm| arm.name.as_str()).collect();
    out += &escaped(&names.join(", "));
    out += "</title>\n<style>\n";
    out += include_str!("page.css");
    out += "</style>\n</head>\n<body>\n";
    out += &head(report, &names);
    out += "<main>\n";
    out += &verdict(report, &judged);
    out += &figures(report);
    if !judged.is_empty() {
        out += &ratios(report, &judged);
    }
    out += &sockets(report);
    for picture in pictures(report) {
        out += &drawn(&picture);
    }
    out += &conditions(report);
    for (at, arm) in report.arms.iter().enumerate() {
        out += &arm_section(at, arm);
    }
    out += "</main>\n</body>\n</html>\n";
    out
}

fn head(report: &Report, names: &[&str]) -> String {
    let others = names.get(1..).unwrap_or_default().join(", ");
    let first = names.first().copied().unwrap_or_default();
    let title = if others.is_empty() {
        first.to_owned()
    } else {
        format!("{first} against {others}")
    };
    format!(
        "<header class=\"bar\"><svg class=\"mark\" viewBox=\"0 0 34 20\" aria-hidden=\"true\"><path d=\"M8 10H26\"/>\
         <circle cx=\"7\" cy=\"10\" r=\"6\"/><circle cx=\"27\" cy=\"10\" r=\"6\"/></svg>\
         <h1>{}</h1><p class=\"about\">Warmline {}, {}</p></header>\n",
        escaped(&title),
        escaped(&report.warmline),
        escaped(&report.started)
    )
}

fn verdict(report: &Report, judged: &[Versus<'_>]) -> String {
    let mut out = String::from(
        "<section class=\"card wide\"><h2>What it comes to</h2>\n<dl class=\"verdict\">\n",
    );
    for (at, verdict) in verdicts(report, judged).iter().enumerate() {
        let _ = write!(
            out,
            "<dt><i class=\"{}\"></i>{}</dt><dd>",
            class(at),
            escaped(&verdict.arm)
        );
        for (n, sentence) in verdict.sentences.iter().enumerate() {
            let tag = if n == 0 { "strong" } else { "span" };
            let _ = write!(out, "<{tag}>{}</{tag}> ", escaped(sentence));
        }
        out += "</dd>\n";
    }
    out += "</dl>\n";
    let notes = notes(report);
    if !notes.is_empty() {
        out += "<h3>To be known</h3>\n<ul class=\"notes\">\n";
        for note in notes {
            let _ = writeln!(out, "<li>{}</li>", escaped(&note));
        }
        out += "</ul>\n";
    }
    out + "</section>\n"
}

fn figures(report: &Report) -> String {
    let mut out = String::from(
        "<section class=\"card wide\"><h2>Each arm</h2>\n<p class=\"says\">Median of the rounds; below it the least and the most.</p>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">arm</th>",
    );
    for figure in Figure::ALL {
        let _ = write!(out, "<th scope=\"col\">{}</th>", figure.name());
    }
    out += "</tr></thead>\n<tbody>\n";
    for (at, arm) in report.arms.iter().enumerate() {
        out += &name_cell(at, &arm.name);
        for figure in Figure::ALL {
            let _ = match figure.spread(arm) {
                None => write!(out, "<td>?</td>"),
                Some(spread) if spread.low.to_bits() == spread.high.to_bits() => {
                    write!(out, "<td>{}</td>", escaped(&value(figure, spread.median)))
                }
                Some(spread) => write!(
                    out,
                    "<td>{}<small>{}</small></td>",
                    escaped(&value(figure, spread.median)),
                    escaped(&range(&spread, |number| value(figure, number)))
                ),
            };
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div></section>\n"
}

fn ratios(report: &Report, judged: &[Versus<'_>]) -> String {
    let first = report.arms.first().map_or("", |arm| arm.name.as_str());
    let mut out = format!(
        "<section class=\"card wide\"><h2>Against {}</h2>\n<p class=\"says\">Ratio, and what it lies within. {}</p>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">arm</th>",
        escaped(first),
        escaped(&confidence(judged.len()))
    );
    for figure in Figure::HEADLINE {
        let _ = write!(out, "<th scope=\"col\">{}</th>", figure.name());
    }
    out += "</tr></thead>\n<tbody>\n";
    for (at, versus) in judged.iter().enumerate() {
        out += &name_cell(at + 1, &versus.of.name);
        for figure in Figure::HEADLINE {
            let outcome = versus.outcome(figure);
            let class = if outcome.difference().is_some() {
                "differs"
            } else {
                "alike"
            };
            let interval = outcome.interval().map_or(String::new(), |one| within(&one));
            let _ = write!(
                out,
                "<td class=\"{class}\">{}<small>{}</small></td>",
                escaped(&ratio(&outcome)),
                escaped(&interval)
            );
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div></section>\n"
}

fn sockets(report: &Report) -> String {
    let mut out = String::from(
        "<section class=\"card wide\"><h2>Sockets</h2>\n<p class=\"says\">The most at any moment; of ports the fewest left. TW: in TIME_WAIT. memory: what the kernel holds for all sockets.</p>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">arm</th>",
    );
    for name in SOCKETS {
        let name = if name == "p99" { "connect p99" } else { name };
        let _ = write!(out, "<th scope=\"col\">{name}</th>");
    }
    out += "</tr></thead>\n<tbody>\n";
    for (at, arm) in report.arms.iter().enumerate() {
        out += &name_cell(at, &arm.name);
        for cell in sockets_of(arm) {
            let _ = write!(out, "<td>{}</td>", escaped(&cell));
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div></section>\n"
}

fn name_cell(at: usize, name: &str) -> String {
    format!(
        "<tr><th scope=\"row\"><i class=\"{}\"></i>{}</th>",
        class(at),
        escaped(name)
    )
}

fn drawn(picture: &Picture) -> String {
    let mut out = format!(
        "<figure class=\"card\"><figcaption><h2>{}</h2><p class=\"says\">{}</p></figcaption>\n{}\n<ul class=\"legend\">",
        escaped(&picture.title),
        escaped(&picture.says),
        picture.svg
    );
    for (class, name) in &picture.legend {
        let _ = write!(out, "<li><i class=\"{class}\"></i>{}</li>", escaped(name));
    }
    out += "</ul>\n<details><summary>As a table</summary><div class=\"scroll\"><table>\n";
    for (n, row) in picture.table.iter().enumerate() {
        out += "<tr>";
        for cell in row {
            let tag = if n == 0 { "th" } else { "td" };
            let _ = write!(out, "<{tag}>{}</{tag}>", escaped(cell));
        }
        out += "</tr>\n";
    }
    out + "</table></div></details></figure>\n"
}

fn conditions(report: &Report) -> String {
    let mut out = String::from(
        "<section class=\"card wide\"><h2>How it was run</h2>\n<dl class=\"facts\">\n",
    );
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
    };
    for line in question(report) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        fact(name, value.trim());
    }
    fact("Memory", &bytes(report.machine.memory_bytes));
    fact("Load average", &digits(report.machine.load_average));
    let plan = &report.plan;
    fact(
        "Threads",
        &format!(
            "{} of the load, {} of each proxy",
            plan.threads, plan.workers
        ),
    );
    if let Some(bits) = report.network.rate_bits {
        fact("Link", &format!("{} bit/s", grouped(bits)));
    }
    for (name, setting) in &report.network.sysctls {
        fact(&format!("net.ipv4.{name}"), setting);
    }
    out += "</dl>\n";
    if !report.command.is_empty() {
        let _ = write!(
            out,
            "<h3>Command</h3>\n<pre>{}</pre>\n",
            escaped(&report.command.join(" "))
        );
    }
    out + "</section>\n"
}

fn arm_section(at: usize, arm: &Arm) -> String {
    let mut out = format!(
        "<section class=\"card wide\"><h2><i class=\"{}\"></i>{}</h2>\n<p class=\"says\">{} {}, {}: {}.</p>\n",
        class(at),
        escaped(&arm.name),
        escaped(&arm.program),
        escaped(&arm.version),
        escaped(&arm.mode),
        escaped(&arm.close_order)
    );
    if !arm.fingerprint.is_empty() {
        out += "<div class=\"scroll\"><table class=\"words\">\n<thead><tr><th>counted</th><th>expected</th><th>found</th><th>of</th><th>fits</th></tr></thead>\n<tbody>\n";
        for check in &arm.fingerprint {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(&check.what),
                escaped(&check.expected),
                grouped(check.found),
                grouped(check.of),
                if check.fits { "yes" } else { "NO" }
            );
        }
        out += "</tbody></table></div>\n";
    }
    if !arm.config.is_empty() {
        let _ = write!(
            out,
            "<h3>Configuration</h3>\n<pre>{}</pre>\n",
            escaped(&arm.config)
        );
    }
    out + "</section>\n"
}
