//! What differs, both observations side by side: all of it and not only the first.

use std::fmt::{self, Write as _};

use crate::conversation::{Conversation, Outcome};
use crate::prober::Observed;
use crate::run::{Played, expected};
use crate::servers::Side;

/// The verdict on a run.
pub struct Report {
    pub failures: Vec<String>,
    conversations: usize,
    again: usize,
    deviations: usize,
}

/// Judges a run.
pub fn of(played: &[Played<'_>]) -> Report {
    let differs = |played: &&Played<'_>| played.conversation.differs.is_some();
    Report {
        failures: played.iter().filter_map(failure).collect(),
        conversations: played.len(),
        again: played.iter().map(again).sum(),
        deviations: played.iter().filter(differs).count(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        write!(
            f,
            "{} conversations with each, {} of them different on purpose; {} were played again; \
             {} are not as they should be",
            self.conversations,
            self.deviations,
            self.again,
            self.failures.len()
        )
    }
}

fn again(played: &Played<'_>) -> usize {
    usize::from(played.httpd.again) + usize::from(played.warmline.again)
}

fn failure(played: &Played<'_>) -> Option<String> {
    let conversation = played.conversation;
    let mut faults = Vec::new();
    for (side, result) in [
        (Side::Httpd, &played.httpd.result),
        (Side::Warmline, &played.warmline.result),
    ] {
        match result {
            Ok(observed) => faults.extend(unexpected(conversation, side, observed)),
            Err(why) => faults.push({
                let why: Vec<_> = why.lines().take(2).map(str::trim).collect();
                format!("{side} could not be asked: {}", why.join(" "))
            }),
        }
    }
    if let (Ok(httpd), Ok(warmline)) = (&played.httpd.result, &played.warmline.result) {
        let equal = are_alike(httpd, warmline)
            && Outcome::of(warmline).is_in_time(&expected(conversation, Side::Httpd));
        match &conversation.differs {
            None if !are_alike(httpd, warmline) => faults.push("they differ".to_owned()),
            Some((deviation, _)) if equal => {
                faults.push(format!("{deviation} is no deviation any more"));
            }
            None | Some(_) => {}
        }
    }
    if faults.is_empty() {
        return None;
    }
    let mut text = format!(
        "{} ({:?}): {}\n",
        conversation.name,
        conversation.group,
        faults.join("; ")
    );
    for (side, result) in [
        (Side::Httpd, &played.httpd.result),
        (Side::Warmline, &played.warmline.result),
    ] {
        if let Ok(observed) = result {
            let _ = write!(text, "{}", Columns(side, observed));
        }
    }
    Some(text)
}

fn unexpected(conversation: &Conversation, side: Side, observed: &Observed) -> Option<String> {
    let expected = expected(conversation, side);
    let outcome = Outcome::of(observed);
    if !outcome.is_like(&expected) {
        return Some(format!("{side} should do {expected}, and does {outcome}"));
    }
    (!outcome.is_in_time(&expected))
        .then(|| format!("{side} is not in time: should do {expected}, and does {outcome}"))
}

/// Whether the same came of it, in all but time.
fn are_alike(httpd: &Observed, warmline: &Observed) -> bool {
    let pairs = httpd.responses.iter().zip(&warmline.responses);
    httpd.responses.len() == warmline.responses.len()
        && pairs.clone().all(|(one, other)| one.is_like(other))
        && httpd.end == warmline.end
        && httpd.client_first == warmline.client_first
        && httpd.time_wait == warmline.time_wait
}

/// One side's observation.
struct Columns<'a>(Side, &'a Observed);

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Columns(side, observed) = self;
        for seen in &observed.responses {
            writeln!(f, "    {:<9} {seen}", side.to_string())?;
        }
        let first = if observed.client_first {
            ", the client first"
        } else {
            ""
        };
        writeln!(
            f,
            "    {:<9} {:?} after {} ms{first}, TIME_WAIT: {}",
            side.to_string(),
            observed.end,
            observed.end_after.as_millis(),
            observed.time_wait.unwrap_or("not looked at")
        )
    }
}
