//! Whose which subscription is: asked for with every request of an owner, and so kept in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use super::Principal;
use crate::domain::{Owner, SubscriptionId};

/// The owners of subscriptions. Those of subscriptions without one, which are the operator's, are not in it. Cloning shares
/// it.
#[derive(Clone, Default)]
pub struct Owners(Arc<RwLock<Book>>);

#[derive(Default)]
struct Book {
    of_file: HashMap<SubscriptionId, Owner>,
    of_api: HashMap<SubscriptionId, Owner>,
    /// The webhooks of each owner that were made over the API.
    made: BTreeMap<Owner, BTreeSet<SubscriptionId>>,
}

impl Owners {
    /// Whose the subscription is: `None` when it is the operator's, and when there is none.
    pub fn of(&self, id: &SubscriptionId) -> Option<Owner> {
        let book = self.0.read();
        book.of_api.get(id).or_else(|| book.of_file.get(id)).cloned()
    }

    /// May the principal see that subscription, and what belongs to it?
    pub fn lets(&self, principal: &Principal, id: &SubscriptionId) -> bool {
        principal.owner().is_none_or(|owner| self.of(id).as_ref() == Some(owner))
    }

    /// How many webhooks an owner has that were made over the API.
    pub fn made(&self, owner: &Owner) -> usize {
        self.0.read().made.get(owner).map_or(0, BTreeSet::len)
    }

    /// All subscriptions of an owner, in the order of their ids.
    pub fn all(&self, owner: &Owner) -> Vec<SubscriptionId> {
        let book = self.0.read();
        let mut all = book.made.get(owner).cloned().unwrap_or_default();
        all.extend(book.of_file.iter().filter(|(_, of)| *of == owner).map(|(id, _)| id.clone()));
        all.into_iter().collect()
    }

    /// Takes the owners of the file's subscriptions in the place of those before.
    pub fn replace_of_file(&self, of_file: impl IntoIterator<Item = (SubscriptionId, Owner)>) {
        let of_file = of_file.into_iter().collect();
        self.0.write().of_file = of_file;
    }

    /// Says whose a webhook is that was made over the API; `None` when it is the operator's, or is no more.
    pub fn set(&self, id: &SubscriptionId, owner: Option<Owner>) {
        let mut book = self.0.write();
        if let Some(before) = book.of_api.remove(id)
            && let Some(made) = book.made.get_mut(&before)
        {
            made.remove(id);
            if made.is_empty() {
                book.made.remove(&before);
            }
        }
        if let Some(owner) = owner {
            book.made.entry(owner.clone()).or_default().insert(id.clone());
            book.of_api.insert(id.clone(), owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_sees_its_own_and_the_operator_all() {
        let id = |text: &str| SubscriptionId::parse(text).expect("an id");
        let owner = |text: &str| Owner::parse(text).expect("an owner");
        let (owners, acme, other) = (Owners::default(), owner("acme"), owner("other"));
        owners.replace_of_file([(id("of-file"), acme.clone())]);
        owners.set(&id("wh_1"), Some(acme.clone()));
        owners.set(&id("wh_2"), Some(other.clone()));
        assert_eq!(owners.all(&acme), [id("of-file"), id("wh_1")]);
        let principal = Principal::of_owner(&acme);
        assert!(owners.lets(&principal, &id("wh_1")) && owners.lets(&principal, &id("of-file")));
        assert!(!owners.lets(&principal, &id("wh_2")) && !owners.lets(&principal, &id("nobody-s")));
        assert!(owners.lets(&Principal::admin(), &id("nobody-s")));

        owners.set(&id("wh_1"), Some(other.clone()));
        assert_eq!((owners.made(&acme), owners.made(&other)), (0, 2));
        owners.set(&id("wh_1"), None);
        assert_eq!((owners.made(&other), owners.of(&id("wh_1"))), (1, None));
    }
}
