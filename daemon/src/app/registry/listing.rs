//! Pages of webhooks: those of the file, then those that were made over the API, without opening more than a page needs.

use super::Registry;
use crate::api::webhooks::{Page, Place, Wanted, Webhook};
use crate::domain::{Pattern, SubscriptionId};
use crate::store::Error;

/// How many webhooks are looked at for one page: many filters take few.
const LOOKS_MAX: usize = 2_000;
/// How many ids are read from the store at a time.
const IDS_MAX: usize = 128;

/// A page of what is wanted.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn page(registry: &Registry, wanted: &Wanted) -> Result<Page, Error> {
    let mut search = Search { registry, wanted, page: Page::default(), looks: 0, last: None };
    let after = match &wanted.after {
        Some(Place::OfApi(id)) => Some(id.clone()),
        before @ (None | Some(Place::OfFile(_))) => {
            if wanted.is_of_file != Some(false) && !search.of_file(before.as_ref())? {
                return Ok(search.ended(true));
            }
            None
        }
    };
    let more = wanted.is_of_file != Some(true) && !search.of_api(after)?;
    Ok(search.ended(more))
}

struct Search<'a> {
    registry: &'a Registry,
    wanted: &'a Wanted,
    page: Page,
    looks: usize,
    /// The last one that was looked at.
    last: Option<Place>,
}

impl Search<'_> {
    /// The page, with where the next one begins when there is `more`.
    fn ended(self, more: bool) -> Page {
        Page { next: self.last.filter(|_| more), ..self.page }
    }

    /// May no further one be looked at?
    fn is_full(&self) -> bool {
        self.page.webhooks.len() >= self.wanted.limit || self.looks >= LOOKS_MAX
    }

    /// Looks at those of the file that come after a place; false when some are left.
    fn of_file(&mut self, after: Option<&Place>) -> Result<bool, Error> {
        let config = self.registry.config.load();
        let mut ids: Vec<&SubscriptionId> = config.subscriptions.iter().map(|one| &one.id).collect();
        ids.retain(|id| match after {
            Some(Place::OfFile(after)) => *id > after,
            _ => true,
        });
        ids.retain(|id| self.wanted.among.as_ref().is_none_or(|among| among.contains(id)));
        ids.sort_unstable();
        for id in ids {
            if self.is_full() {
                return Ok(false);
            }
            self.looks += 1;
            if self.is_as_active(id) {
                let shown = self.registry.shown_of_file(id);
                self.page.webhooks.extend(shown.filter(|webhook| self.takes(webhook)));
            }
            self.last = Some(Place::OfFile(id.clone()));
        }
        Ok(true)
    }

    /// Looks at those that were made over the API and come after that one; false when some are left.
    fn of_api(&mut self, mut after: Option<SubscriptionId>) -> Result<bool, Error> {
        loop {
            let ids = match &self.wanted.among {
                Some(among) => {
                    among.iter().filter(|id| after.as_ref().is_none_or(|after| *id > after)).cloned().collect()
                }
                None => self.registry.store.definition_ids(after.as_ref(), IDS_MAX)?,
            };
            let is_end = self.wanted.among.is_some() || ids.len() < IDS_MAX;
            for id in ids {
                if self.is_full() {
                    return Ok(false);
                }
                self.looks += 1;
                if self.is_as_active(&id)
                    && let Some(kept) = self.registry.store.definition(self.registry.secrets.keyring(), &id)?
                {
                    let shown = self.registry.shown(id.clone(), &kept);
                    self.page.webhooks.extend(Some(shown).filter(|webhook| self.takes(webhook)));
                }
                self.last = Some(Place::OfApi(id.clone()));
                after = Some(id);
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    fn is_as_active(&self, id: &SubscriptionId) -> bool {
        self.wanted.is_active.is_none_or(|active| self.registry.is_active(id) == active)
    }

    fn takes(&self, webhook: &Webhook) -> bool {
        let Some(kind) = &self.wanted.kind else { return true };
        let types = webhook.definition.get("types").and_then(|types| types.as_array());
        let mut patterns = types.into_iter().flatten().filter_map(|text| Pattern::parse(text.as_str()?).ok());
        patterns.any(|pattern| pattern.matches(kind.as_str()))
    }
}
