//! The webhooks that are made over the API: kept in the store, checked and prepared here, run by the daemon's loop.

mod active;
mod listing;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{error, info, warn};

use self::active::take_active;
use super::answers::{Answers, Seen};
use super::plugins::{Catalogue, Change};
use crate::api::Owners;
use crate::api::event_types::EventTypes;
use crate::api::plugins;
use crate::api::subscriptions::Lanes;
use crate::api::webhooks::{Edit, Flaw, IfMatch, Made, New, Page, Refused, RequestKey, Wanted, Webhook, Webhooks};
use crate::config::Config;
use crate::deliver::signing::{parse_secret, text_of};
use crate::deliver::{Secrets, secrets};
use crate::domain::{Owner, PluginRef, Subscription, SubscriptionId, WebhookSecret};
use crate::pipeline::Spec;
use crate::pipeline::subscriptions::{self, Ready};
use crate::plugin::{self, Host};
use crate::store::{Answer, Definition, Store};
use crate::telemetry::{self, clock};

/// How many changes may wait for the daemon's loop.
const ASKS_MAX: usize = 16;
/// What the ids of these webhooks begin with; 24 hexadecimal digits follow.
const ID_PREFIX: &str = "wh_";
/// The key of the signing secret in a definition.
const SECRET: &str = "secret";

/// A change of what runs, for the daemon's loop.
pub(super) enum Ask {
    /// Of the webhooks that are made over the API.
    Webhooks {
        /// What is to run, new or changed.
        specs: Vec<(SubscriptionId, Spec)>,
        /// What is to end.
        gone: Vec<SubscriptionId>,
        /// Told how it went.
        done: oneshot::Sender<Result<(), subscriptions::Error>>,
    },
    /// Of a plugin.
    Plugin {
        /// What is to change.
        change: Change,
        /// Told how it went.
        done: oneshot::Sender<Result<(), plugins::Refused>>,
    },
}

/// The webhooks that are kept.
#[derive(Default)]
pub(super) struct Kept {
    /// Those that can run.
    pub(super) specs: Vec<(SubscriptionId, Spec)>,
    /// Those that cannot, and why.
    pub(super) idle: Vec<(SubscriptionId, Box<str>)>,
}

/// A webhook that is kept, as the configuration takes it.
pub(super) type Defined = (SubscriptionId, Result<Subscription, Vec<Flaw>>);

/// Keeps the webhooks that are made over the API.
#[derive(Clone)]
pub(super) struct Registry {
    store: Store,
    catalogue: Catalogue,
    secrets: Secrets,
    config: Arc<ArcSwap<Config>>,
    pub(super) asks: mpsc::Sender<Ask>,
    /// Held during a change of webhooks or plugins: one at a time.
    pub(super) changing: Arc<Mutex<()>>,
    /// Whose the subscriptions are.
    pub(super) owners: Owners,
    /// What is known of event types.
    pub(super) event_types: EventTypes,
    /// Where what runs is found.
    lanes: Arc<OnceLock<Arc<dyn Lanes>>>,
    /// The answers to requests that have a key of their own.
    answers: Answers,
}

/// The daemon is stopping, or does not get on.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is stopping")]
pub(super) struct Stopping;

impl Registry {
    /// A registry, and where the daemon's loop is asked. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn new(
        store: Store,
        catalogue: Catalogue,
        secrets: Secrets,
        config: Arc<ArcSwap<Config>>,
    ) -> Result<(Self, mpsc::Receiver<Ask>), crate::store::Error> {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let event_types = EventTypes::open(store.clone())?;
        event_types.replace_of_file(&config.load().event_types);
        let (changing, owners, answers) = (Arc::default(), Owners::default(), Answers::default());
        Ok((
            Self {
                store,
                catalogue,
                secrets,
                config,
                asks,
                changing,
                owners,
                event_types,
                answers,
                lanes: Arc::default(),
            },
            asked,
        ))
    }

    /// Learns which requests with a key of their own were answered. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    fn learn_answers(&self) -> Result<(), crate::store::Error> {
        let now = clock::now_ms();
        for (id, answer) in self.store.answers(self.secrets.keyring())? {
            for over in self.answers.add(&id, &answer, now) {
                self.store.remove_answer(&over)?;
            }
        }
        Ok(())
    }

    /// Finishes what a daemon before this one did not come to, and learns what is kept. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(super) fn learn(&self) -> Result<(), crate::store::Error> {
        self.sweep();
        self.learn_owners()?;
        self.learn_answers()
    }

    /// Learns whose the webhooks are, and whose the subscriptions of the file. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn learn_owners(&self) -> Result<(), crate::store::Error> {
        for (id, definition) in self.store.definitions(self.secrets.keyring())? {
            self.owners.set(&id, definition.owner);
        }
        self.owners.replace_of_file(of_file(&self.config.load()));
        Ok(())
    }

    /// All that are kept, as the configuration takes them; whether their plugins do is not looked at.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn defined(&self, config: &Config) -> Result<Vec<Defined>, crate::store::Error> {
        let all = self.store.definitions(self.secrets.keyring())?;
        let defined = |(id, kept): (SubscriptionId, Definition)| {
            let subscription = define(config, &id, &parse(&kept));
            (id, subscription)
        };
        Ok(all.into_iter().map(defined).collect())
    }

    /// Those of them that can run, ready to. One that cannot is told of: its definition and its place stay, so that it goes
    /// on when the configuration takes it.
    pub(super) fn prepare(&self, host: &Host, defined: Vec<Defined>) -> Kept {
        let mut kept = Kept::default();
        for (id, subscription) in defined {
            match subscription.and_then(|subscription| self.ready(host, &subscription)) {
                Ok(spec) => kept.specs.push((id, spec)),
                Err(flaws) => {
                    let reason = told(&flaws);
                    error!(subscription = %id, reason = %reason, "a webhook no longer fits the configuration");
                    kept.idle.push((id, reason.into()));
                }
            }
        }
        kept
    }

    /// Ready to run with the plugins of that host.
    fn ready(&self, host: &Host, subscription: &Subscription) -> Result<Spec, Vec<Flaw>> {
        match subscriptions::prepare(host, &self.secrets, subscription) {
            Ok(Ready::Webhook(spec)) => Ok(*spec),
            Ok(Ready::Stream(_)) => Err(vec![Flaw { key: String::new(), reason: "is not a webhook".into() }]),
            Err(error) => Err(vec![flaw_of(subscription, &error)]),
        }
    }

    fn shown(&self, id: SubscriptionId, kept: &Definition) -> Webhook {
        let (definition, is_active) = (parse(kept), self.is_active(&id));
        let broken = self.config.load().define(&id, &definition).err();
        let broken = broken.map(|flaws| flaws.into_iter().map(|flaw| flaw.reason).collect::<Vec<_>>().join("; "));
        Webhook {
            id,
            name: kept.label.clone(),
            owner: kept.owner.clone(),
            created_ms: kept.created_ms,
            updated_ms: kept.updated_ms,
            definition,
            broken: broken.map(Into::into),
            is_of_file: false,
            is_active,
        }
    }

    /// A webhook of the file.
    fn shown_of_file(&self, id: &SubscriptionId) -> Option<Webhook> {
        let config = self.config.load();
        let subscription = config.subscriptions.iter().find(|one| one.id == *id)?;
        Some(Webhook {
            id: id.clone(),
            name: id.as_str().into(),
            owner: subscription.owner.clone(),
            created_ms: 0,
            updated_ms: 0,
            definition: config.definition_of_file(id)?,
            broken: None,
            is_of_file: true,
            is_active: self.is_active(id),
        })
    }

    /// Makes a definition durable, with what is to be answered for it, and puts it into effect.
    async fn put(&self, id: &SubscriptionId, kept: Definition, answer: Option<Answer>) -> Result<Webhook, Refused> {
        let (registry, of, before) = (self.clone(), id.clone(), kept.clone());
        let spec = blocking(move || {
            let config = registry.config.load();
            let subscription = define(&config, &of, &parse(&kept)).map_err(Refused::Flaws)?;
            let host = registry.catalogue.host_for(&subscription);
            let spec = registry.ready(host, &subscription).map_err(Refused::Flaws)?;
            let keyring = registry.secrets.keyring();
            let written = match &answer {
                None => registry.store.put_definition(keyring, &of, &kept),
                Some(answer) => registry.store.put_made(keyring, &of, &kept, answer),
            };
            written.map_err(unavailable)?;
            Ok(spec)
        });
        self.ask(vec![(id.clone(), spec.await?)], Vec::new()).await?;
        Ok(self.shown(id.clone(), &before))
    }

    async fn ask(&self, specs: Vec<(SubscriptionId, Spec)>, gone: Vec<SubscriptionId>) -> Result<(), Refused> {
        let (done, answer) = oneshot::channel();
        self.asks.send(Ask::Webhooks { specs, gone, done }).await.map_err(|_| unavailable(Stopping))?;
        answer.await.map_err(|_| unavailable(Stopping))?.map_err(|error| match error.is_passing() {
            true => unavailable(error),
            false => flaw("", telemetry::chain(&error)),
        })
    }

    async fn kept(&self, id: &SubscriptionId) -> Result<Definition, Refused> {
        let (registry, id) = (self.clone(), id.clone());
        let kept = blocking(move || registry.store.definition(registry.secrets.keyring(), &id).map_err(unavailable));
        kept.await?.ok_or(Refused::Unknown)
    }

    /// A webhook that may be changed, as long as it is as the asker saw it.
    async fn changeable(&self, id: &SubscriptionId, if_match: &IfMatch) -> Result<Definition, Refused> {
        let kept = match self.kept(id).await {
            Err(Refused::Unknown) if self.shown_of_file(id).is_some() => return Err(Refused::OfFile),
            kept => kept?,
        };
        match if_match.allows(&self.shown(id.clone(), &kept)) {
            true => Ok(kept),
            false => Err(Refused::Changed),
        }
    }

    /// What a request made that had the same key and was done before.
    async fn made_before(&self, id: SubscriptionId) -> Result<Made, Refused> {
        let registry = self.clone();
        blocking(move || {
            let answer = registry.store.answer(registry.secrets.keyring(), &id).map_err(unavailable)?;
            let (answer, kept) = answer.ok_or(Refused::Unknown)?;
            let webhook = Webhook { broken: None, ..registry.shown(id, &kept) };
            Ok(Made { webhook, secret: answer.secret.into(), is_repeated: true })
        })
        .await
    }

    /// Remembers an answer, and forgets those that it is time to forget.
    async fn answered(&self, id: &SubscriptionId, answer: &Answer) {
        let over = self.answers.add(id, answer, answer.at_ms);
        let registry = self.clone();
        let forgotten =
            blocking(move || over.iter().try_for_each(|id| registry.store.remove_answer(id)).map_err(unavailable));
        if let Err(error) = forgotten.await {
            warn!(?error, "old answers could not be forgotten, trying again at the next start");
        }
    }
}

impl Registry {
    /// Takes a webhook that does not run out of the store, with all that is its own.
    async fn forget(&self, id: &SubscriptionId) -> Result<(), Refused> {
        let (registry, id) = (self.clone(), id.clone());
        blocking(move || {
            registry.store.remove_definition(&id).map_err(unavailable)?;
            registry.store.remove_registration(&id).map_err(unavailable)?;
            registry.erase(&id).map_err(unavailable)?;
            registry.answers.forget(&id);
            Ok(())
        })
        .await
    }

    /// Takes a webhook's secrets, answer, parked deliveries and dead letters out of the store: nobody will ask for them again.
    fn erase(&self, id: &SubscriptionId) -> Result<(), crate::store::Error> {
        self.secrets.forget(id)?;
        self.store.remove_answer(id)?;
        while self.store.forget_deliveries(id)? > 0 {}
        Ok(())
    }

    /// Finishes at the start what a daemon before this one did not come to: removals that were cut short, and what attempts
    /// left that ended after their webhook had been removed. Blocks.
    fn sweep(&self) {
        let left = || -> Result<(), crate::store::Error> {
            let all = self.store.definitions(self.secrets.keyring())?;
            let mut left = self.store.owners()?;
            left.retain(|id| is_of_api(id) && !all.iter().any(|(kept, _)| kept == id));
            left.retain(|id| !self.config.load().subscriptions.iter().any(|of_file| of_file.id == *id));
            for id in &left {
                self.erase(id)?;
                info!(subscription = %id, "what was left of a removed webhook is gone");
            }
            Ok(())
        };
        if let Err(error) = left() {
            let error = telemetry::chain(&error);
            warn!(error, "cannot remove what is left of removed webhooks, trying again at the next start");
        }
    }

    /// Puts the secret of a changed definition in the place of the current one, which stays valid for the overlap.
    async fn rotate(&self, id: &SubscriptionId, secret: WebhookSecret) -> Result<(), Refused> {
        let (secrets, id) = (self.secrets.clone(), id.clone());
        blocking(move || match secrets.rotate(&id, Some(secret), None) {
            Ok(_) | Err(secrets::Error::Same) => Ok(()),
            Err(error @ secrets::Error::TooMany) => Err(flaw(SECRET, error.to_string())),
            Err(error) => Err(unavailable(error)),
        })
        .await
    }
}

impl Webhooks for Registry {
    fn page(&self, wanted: Wanted) -> BoxFuture<'_, Result<Page, Refused>> {
        let registry = self.clone();
        blocking(move || listing::page(&registry, &wanted).map_err(unavailable)).boxed()
    }

    fn one<'a>(&'a self, id: &'a SubscriptionId) -> BoxFuture<'a, Result<Webhook, Refused>> {
        async move {
            match self.kept(id).await {
                Err(Refused::Unknown) => self.shown_of_file(id).ok_or(Refused::Unknown),
                kept => Ok(self.shown(id.clone(), &kept?)),
            }
        }
        .boxed()
    }

    fn make(&self, new: New) -> BoxFuture<'_, Result<Made, Refused>> {
        async move {
            let New { name, owner, mut definition, limited, key } = new;
            let _in_hand = match key.as_ref().map(|key| self.answers.look(key, clock::now_ms())) {
                None => None,
                Some(Seen::New(in_hand)) => Some(in_hand),
                Some(Seen::Done(id)) => return self.made_before(id).await,
                Some(Seen::Other) => return Err(Refused::KeyReused),
                Some(Seen::InHand) => return Err(Refused::KeyInUse),
            };
            let _changing = self.changing.lock().await;
            let most = self.config.load().limits.webhooks_per_owner;
            if let Some(owner) = owner.as_ref().filter(|_| limited)
                && self.owners.made(owner) >= most
            {
                return Err(Refused::TooMany(most));
            }
            let id = SubscriptionId::parse(&format!("{ID_PREFIX}{:024x}", rand::random::<u128>() >> 32));
            let id = id.expect("letters, digits and `_`, which begin with a letter");
            let given = take_secret(&mut definition)?;
            let active = take_active(&mut definition)?;
            let (secrets, of) = (self.secrets.clone(), id.clone());
            let secret = blocking(move || secrets.begin(&of, given).map_err(unavailable)).await?;
            let now = clock::now_ms();
            if active == Some(false) {
                self.begin_inactive(&id, now).await?;
            }
            let kept = Definition {
                label: name,
                owner: owner.clone(),
                created_ms: now,
                updated_ms: now,
                text: text(definition),
            };
            self.owners.set(&id, owner);
            let secret = text_of(&secret);
            let answer = key.map(|RequestKey { key, request }| Answer {
                key,
                request,
                at_ms: now,
                secret: secret.as_str().into(),
            });
            match self.put(&id, kept, answer.clone()).await {
                Ok(webhook) => {
                    if let Some(answer) = &answer {
                        self.answered(&id, answer).await;
                    }
                    info!(subscription = %id, "webhook made");
                    Ok(Made { webhook, secret, is_repeated: false })
                }
                Err(refused) => {
                    // Nobody knows its id: it must not come to life at the next start.
                    self.owners.set(&id, None);
                    self.forget(&id).await.and(Err(refused))
                }
            }
        }
        .boxed()
    }

    fn change<'a>(&'a self, id: &'a SubscriptionId, edit: Edit) -> BoxFuture<'a, Result<Webhook, Refused>> {
        async move {
            let _changing = self.changing.lock().await;
            let mut kept = self.changeable(id, &edit.if_match).await?;
            let (before, as_it_was) = (parse(&kept), kept.clone());
            kept.label = edit.name.clone().unwrap_or(kept.label);
            kept.owner = edit.owner.clone().unwrap_or(kept.owner);
            let owner = kept.owner.clone();
            let mut definition = edit.apply(&before);
            let given = take_secret(&mut definition)?;
            let active = take_active(&mut definition)?;
            kept.text = text(definition);
            // Each version has a time of its own: it is told from the others by that.
            kept.updated_ms = clock::now_ms().max(kept.updated_ms + 1);
            let mut changed = match self.put(id, kept, None).await {
                Ok(changed) => changed,
                Err(refused @ Refused::Flaws(_)) => {
                    // It runs as it was, and is to begin so at the next start.
                    let registry = self.clone();
                    let (of, as_it_was) = (id.clone(), as_it_was);
                    blocking(move || {
                        let keyring = registry.secrets.keyring();
                        registry.store.put_definition(keyring, &of, &as_it_was).map_err(unavailable)
                    })
                    .await?;
                    return Err(refused);
                }
                Err(refused) => return Err(refused),
            };
            self.owners.set(id, owner);
            if let Some(secret) = given {
                self.rotate(id, secret).await?;
            }
            self.set_active(&mut changed, active).await?;
            info!(subscription = %id, "webhook changed");
            Ok(changed)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a SubscriptionId, if_match: IfMatch) -> BoxFuture<'a, Result<(), Refused>> {
        async move {
            let _changing = self.changing.lock().await;
            self.changeable(id, &if_match).await?;
            let (store, of) = (self.store.clone(), id.clone());
            blocking(move || store.remove_definition(&of).map_err(unavailable)).await?;
            self.ask(Vec::new(), vec![id.clone()]).await?;
            self.forget(id).await?;
            self.owners.set(id, None);
            info!(subscription = %id, "webhook removed");
            Ok(())
        }
        .boxed()
    }
}

/// The owners of the file's subscriptions that have one.
pub(super) fn of_file(config: &Config) -> Vec<(SubscriptionId, Owner)> {
    let owned = config.subscriptions.iter().filter_map(|s| Some((s.id.clone(), s.owner.clone()?)));
    owned.collect()
}

/// Is that the id of a webhook that was made over the API?
fn is_of_api(id: &SubscriptionId) -> bool {
    let digits = id.as_str().strip_prefix(ID_PREFIX);
    digits.is_some_and(|digits| digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A definition as the configuration takes it.
fn define(config: &Config, id: &SubscriptionId, definition: &Map<String, Value>) -> Result<Subscription, Vec<Flaw>> {
    let flaw = |flaw: crate::config::Flaw| Flaw { key: flaw.key, reason: flaw.reason };
    config.define(id, definition).map_err(|flaws| flaws.into_iter().map(flaw).collect())
}

/// Takes the secret out of a definition: it is kept with the secrets.
fn take_secret(definition: &mut Map<String, Value>) -> Result<Option<WebhookSecret>, Refused> {
    match definition.remove(SECRET) {
        None => Ok(None),
        Some(Value::String(text)) => parse_secret(&text).map(Some).map_err(|error| flaw(SECRET, error.to_string())),
        Some(_) => Err(flaw(SECRET, "must be a text".to_owned())),
    }
}

fn flaw(key: &str, reason: String) -> Refused {
    Refused::Flaws(vec![Flaw { key: key.to_owned(), reason }])
}

/// Which key of a webhook keeps it from running, and why; whoever makes one does not know its id yet.
fn flaw_of(of: &Subscription, error: &subscriptions::Error) -> Flaw {
    let (key, reason) = match error {
        subscriptions::Error::Plugin { source, .. } => (key_of_plugin(of, source), telemetry::chain(source)),
        subscriptions::Error::Endpoint { source, .. } => ("url".to_owned(), telemetry::chain(source)),
        error => (String::new(), telemetry::chain(error)),
    };
    Flaw { key, reason }
}

/// The use of the plugin that an error is about; the first, where there are several.
fn key_of_plugin(of: &Subscription, error: &plugin::Error) -> String {
    let place = |uses: &[PluginRef]| uses.iter().position(|one| Some(&*one.plugin) == error.plugin());
    let filter = place(&of.filters).map(|at| format!("filters[{at}]"));
    filter.or_else(|| place(&of.transforms).map(|at| format!("transforms[{at}]"))).unwrap_or_default()
}

fn parse(kept: &Definition) -> Map<String, Value> {
    serde_json::from_slice(&kept.text).unwrap_or_default()
}

fn text(definition: Map<String, Value>) -> Box<[u8]> {
    Value::Object(definition).to_string().into_bytes().into()
}

fn told(flaws: &[Flaw]) -> String {
    flaws.iter().map(|flaw| format!("{}: {}", flaw.key, flaw.reason)).collect::<Vec<_>>().join("; ")
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Refused {
    Refused::Unavailable(error.into())
}

/// Works away from the tasks that serve requests and deliver.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(unavailable)?
}
