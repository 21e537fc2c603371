//! The plugins of one subscription, in order.

use std::fmt;
use std::sync::Arc;

use super::fault::Fault;
use super::host::Role;
use super::trial::Said;
use super::usage::Usage;
use super::view::{Allowance, View, laid_over, whole};
use crate::domain::{Event, OnPluginError, Output, Verdict};
use crate::telemetry::spans::Span;

/// All plugins of one subscription: its filters, then its transforms. Several events may be run through it side by side.
pub struct Chain {
    filters: Vec<Arc<Usage>>,
    transforms: Vec<Arc<Usage>>,
    on_error: OnPluginError,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The result.
    pub passed: Passed,
    /// Faults that were passed over, because the subscription says so ([`OnPluginError::Pass`]). A fault that decided
    /// over the event is in `passed`, not here.
    pub passed_over: Vec<Fault>,
}

impl Ran {
    /// Says in a span what became of the event.
    pub fn describe(&self, span: &mut Span) {
        if !span.is_recorded() {
            return;
        }
        let verdict = match &self.passed {
            Passed::Kept(outputs) => {
                span.set("sluiced.outputs", i64::try_from(outputs.len()).unwrap_or(i64::MAX));
                "kept"
            }
            Passed::Dropped { plugin, .. } => {
                span.set("sluiced.plugin", plugin.to_string());
                "dropped"
            }
            Passed::Faulted { fault, .. } => {
                span.fail(fault);
                "faulted"
            }
        };
        span.set("sluiced.verdict", verdict);
    }
}

/// What the plugins made of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// It goes on as these outputs, at least one. Without transforms it is exactly one, which shares the event's payload
    /// and changes nothing else.
    Kept(Vec<Output>),
    /// It ends here: a filter said no, or a transform gave no output.
    Dropped {
        /// The plugin that said so.
        plugin: Box<str>,
        /// The reason that it gave.
        reason: Option<String>,
    },
    /// A plugin failed, and the event does not go on.
    Faulted {
        /// What happened.
        fault: Fault,
        /// What the subscription wants done with the event; never [`OnPluginError::Pass`].
        policy: OnPluginError,
    },
}

impl Ran {
    /// What becomes of an event without any plugin.
    pub fn untouched(event: &Event) -> Self {
        Self { passed: Passed::Kept(vec![whole(event)]), passed_over: Vec::new() }
    }
}

impl Chain {
    pub(super) fn new(filters: Vec<Arc<Usage>>, transforms: Vec<Arc<Usage>>, on_error: OnPluginError) -> Self {
        Self { filters, transforms, on_error }
    }

    /// Are there no plugins? Then running costs nothing.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.transforms.is_empty()
    }

    pub(super) fn uses(&self) -> impl Iterator<Item = (Role, &Arc<Usage>)> {
        let filters = self.filters.iter().map(|usage| (Role::Filter, usage));
        filters.chain(self.transforms.iter().map(|usage| (Role::Transform, usage)))
    }

    /// The plugins in order: what each is (`filter` or `transform`), its name, and its version.
    pub fn plugins(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        let filters = self.filters.iter().map(|usage| ("filter", usage));
        let all = filters.chain(self.transforms.iter().map(|usage| ("transform", usage)));
        all.map(|(role, usage)| (role, usage.name(), usage.version()))
    }

    /// The plugins that are set aside, with how many faults in a row each had.
    pub fn quarantined(&self) -> impl Iterator<Item = (&str, u32)> {
        let all = self.filters.iter().chain(&self.transforms);
        all.filter_map(|usage| Some((usage.name(), usage.quarantined()?)))
    }

    /// The memory of the instances that served the last event, in bytes, all plugins together.
    pub fn memory_bytes(&self) -> usize {
        self.filters.iter().chain(&self.transforms).map(|usage| usage.memory_bytes()).sum()
    }

    /// Runs one event through the plugins. It takes no longer than the deadlines allow, and lets other tasks run after
    /// each millisecond of a plugin's time. Dropping the future ends the call under way.
    pub async fn run(&self, event: &Event) -> Ran {
        let mut passed_over = Vec::new();
        let passed = match self.stages(event, &mut passed_over).await {
            Ok(passed) => passed,
            Err(fault) => Passed::Faulted { fault, policy: self.on_error },
        };
        Ran { passed, passed_over }
    }

    /// Filters, then transforms. The fault returned is the one that decides.
    async fn stages(&self, event: &Event, passed_over: &mut Vec<Fault>) -> Result<Passed, Fault> {
        let original = whole(event);
        for filter in &self.filters {
            let tried_out = filter.tried_out();
            let verdict = filter.keep(View::new(event, &original)).await;
            if let Some((candidate, began)) = tried_out {
                candidate.compare(event, &original, Said::of_filter(&verdict), began.elapsed());
            }
            match verdict {
                Ok(Verdict::Keep) => {}
                Ok(Verdict::Drop(reason)) => return Ok(Passed::Dropped { plugin: filter.name().into(), reason }),
                Err(fault) => passed_over.push(self.tolerated(fault)?),
            }
        }
        let mut parts = vec![original];
        for transform in &self.transforms {
            parts = self.transformed(transform, event, parts, passed_over).await?;
            if parts.is_empty() {
                return Ok(Passed::Dropped { plugin: transform.name().into(), reason: None });
            }
        }
        Ok(Passed::Kept(parts))
    }

    /// What one transform makes of all parts.
    async fn transformed(
        &self,
        transform: &Usage,
        event: &Event,
        parts: Vec<Output>,
        passed_over: &mut Vec<Fault>,
    ) -> Result<Vec<Output>, Fault> {
        let mut allowance = Allowance::new(transform.limits());
        let mut made = Vec::with_capacity(parts.len());
        for part in parts {
            let tried_out = transform.tried_out();
            let outputs = transform.apply(View::new(event, &part)).await;
            let outputs = outputs.and_then(|outputs| allowance.take(outputs).map_err(|kind| transform.fault(kind)));
            if let Some((candidate, began)) = tried_out {
                candidate.compare(event, &part, Said::of_transform(&outputs), began.elapsed());
            }
            match outputs {
                Ok(outputs) => made.extend(outputs.into_iter().map(|output| laid_over(&part, output))),
                Err(fault) => {
                    passed_over.push(self.tolerated(fault)?);
                    made.push(part);
                }
            }
        }
        Ok(made)
    }

    fn tolerated(&self, fault: Fault) -> Result<Fault, Fault> {
        if self.on_error == OnPluginError::Pass { Ok(fault) } else { Err(fault) }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |uses: &[Arc<Usage>]| uses.iter().map(|usage| usage.name().to_owned()).collect::<Vec<_>>();
        f.debug_struct("Chain")
            .field("filters", &names(&self.filters))
            .field("transforms", &names(&self.transforms))
            .field("on_error", &self.on_error)
            .finish_non_exhaustive()
    }
}
