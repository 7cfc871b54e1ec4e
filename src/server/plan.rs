//! One upstream's plan, and what a new one changes of it.

use std::sync::Arc;

use super::change::{self, Moves, UpstreamChange};
use crate::account::Tallies;
use crate::backend;
use crate::pool::Common;
use crate::proxy::{ServerCommon, Target, UpstreamPlan};
use crate::split::Split;

/// The plan of an upstream, and what it changes: of what there was, all that can stay stays.
pub(super) fn plan(
    settings: &backend::Settings,
    targets: Vec<Target>,
    old: Option<&Arc<UpstreamPlan>>,
    tallies: &Tallies,
) -> (Arc<UpstreamPlan>, Option<UpstreamChange>) {
    let before: Vec<_> = old
        .iter()
        .flat_map(|old| old.servers.iter().map(|(target, _)| target.clone()))
        .collect();
    if let Some(old) = old
        && old.settings == *settings
        && before == targets
    {
        return (Arc::clone(old), None);
    }
    let tls = |targets: &[Target]| targets.first().and_then(|target| target.tls.clone());
    let keeps = old.is_some_and(|old| settings.can_use_connections_of(&old.settings))
        && (before.is_empty() || tls(&before) == tls(&targets));
    let places = if keeps {
        change::carried_over(&before, &targets)
    } else {
        vec![None; targets.len()]
    };
    let moves = Moves::between(&before, &targets);
    let change = match old {
        None => UpstreamChange::Came,
        Some(_) if keeps => UpstreamChange::Changed(moves),
        Some(_) => UpstreamChange::Renewed(moves),
    };
    let common = |place: Option<usize>| match (old, place) {
        (Some(old), Some(place)) => Arc::clone(&old.servers[place].1),
        _ => Arc::new(new_common(settings, tallies)),
    };
    let servers = targets
        .into_iter()
        .zip(places)
        .map(|(target, place)| (target, common(place)));
    let split = settings.split.as_ref().map(|asked| {
        let running = old.and_then(|old| Some((old, old.split.as_ref()?)));
        match running {
            // What was asked for while it runs stays until the file asks for something else.
            Some((old, split)) if old.settings.split.as_ref() == Some(asked) => Arc::clone(split),
            Some((_, split)) => Arc::new(Split::succeeding(split, asked)),
            None => Arc::new(Split::new(asked)),
        }
    });
    let plan = UpstreamPlan {
        settings: settings.clone(),
        servers: servers.collect(),
        split,
    };
    (Arc::new(plan), Some(change))
}

fn new_common(settings: &backend::Settings, tallies: &Tallies) -> ServerCommon {
    Common::new(settings.pool.clone(), tallies.of_pool(settings.arm()))
}
