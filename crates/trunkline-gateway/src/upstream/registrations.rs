//! Registrations as the broker keeps them: every node knows every upstream, and a restarted one knows them still.
//!
//! A registration is a keyed value that lives until it is deleted. Its lease is the gateways' doing: a node whose
//! probes pass writes it anew now and then, and a node whose probes have failed for the whole lease deletes it,
//! unless it was written meanwhile, by an upstream that came back or a node that can reach it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior};
use trunkline_broker::{
    Broker, BrokerError, Change, Condition, Deleted, Life, Revision, Versioned, Watch, Written,
};
use trunkline_proto::wire;

use super::health::Phase;
use super::keeper::jittered;
use super::options::UpstreamOptions;
use super::registration::{RegisterError, Registration, ServedZone};
use super::registry::Registry;

/// What all keys begin with.
const PREFIX: &str = "upstream/";
/// A node writes a registration that nobody has written for a third of the lease: two misses are no loss.
const RENEWALS: u32 = 3;
/// How often leases are looked at, as a part of the lease.
const LOOKS: u32 = 20;
/// Pause before a lost watch is begun anew.
const BACK_OFF: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Registrations {
    broker: Arc<dyn Broker>,
    registry: Arc<Registry>,
    options: Arc<UpstreamOptions>,
    /// The version of each key, and when it was last seen written.
    seen: Mutex<HashMap<String, (Revision, Instant)>>,
}

impl Registrations {
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        registry: Arc<Registry>,
        options: Arc<UpstreamOptions>,
    ) -> Self {
        Registrations { broker, registry, options, seen: Mutex::default() }
    }

    /// Keeps a registration. When it returns, the registration is durable and routed by this node.
    pub(super) async fn register(&self, registration: Registration) -> Result<(), RegisterError> {
        let key = key(&registration);
        let registered = self.registry.registered();
        if registered.get(&key) == Some(&registration) {
            return Ok(());
        }
        if !registered.contains_key(&key) && registered.len() >= self.options.max_registrations {
            let text = format!("{} upstreams are registered, which is the limit", registered.len());
            return Err(RegisterError::Failed(text));
        }
        let written = self.broker.put(&key, encode(&registration), Condition::Any, Life::Forever).await;
        if let Written::Done(revision) = written.map_err(failed)? {
            self.saw(&key, revision);
        }
        self.registry.put(key.clone(), registration.clone());
        // An instance that calls itself something new at its old place is the same instance.
        for (old, other) in registered {
            if old != key && same_place(&other, &registration) {
                self.remove(&old).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Forgets what matches: the instance if one is named, else the address; in one zone, or `None` for all.
    /// Answers how many registrations that were.
    pub(super) async fn deregister(
        &self,
        address: &str,
        instance: &str,
        zone: Option<&ServedZone>,
    ) -> Result<usize, RegisterError> {
        let mut count = 0;
        for (key, registration) in self.registry.registered() {
            let named = instance.is_empty() || registration.instance == instance;
            let placed = address.is_empty() || registration.address.as_str() == address;
            if named && placed && zone.is_none_or(|zone| *zone == registration.zone) {
                self.remove(&key).await.map_err(failed)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Applies what the broker says and tends the leases, until dropped.
    pub(super) async fn follow(&self) {
        loop {
            let result = match self.broker.watch(PREFIX).await {
                Ok(watch) => self.follow_watch(watch).await,
                Err(error) => error,
            };
            tracing::warn!(error = %result, "registrations cannot be followed; those known stay in service");
            tokio::time::sleep(jittered(BACK_OFF)).await;
        }
    }

    async fn follow_watch(&self, mut watch: Watch) -> BrokerError {
        let mut look = tokio::time::interval((self.options.lease / LOOKS).max(Duration::from_millis(100)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                change = watch.next() => match change {
                    Ok(change) => self.apply(change),
                    Err(error) => return error,
                },
                _ = look.tick() => self.tend().await,
            }
        }
    }

    fn apply(&self, change: Change) {
        match change {
            Change::All(values) => {
                let mut registered = BTreeMap::new();
                self.seen.lock().retain(|key, _| values.contains_key(key));
                for (key, versioned) in values {
                    if let Some(registration) = self.decode(&key, &versioned) {
                        self.saw(&key, versioned.revision);
                        registered.insert(key, registration);
                    }
                }
                self.registry.replace(registered);
            }
            Change::Put { key, versioned } if self.knows_newer(&key, versioned.revision) => {}
            Change::Put { key, versioned } => {
                if let Some(registration) = self.decode(&key, &versioned) {
                    self.saw(&key, versioned.revision);
                    self.registry.put(key, registration);
                }
            }
            // It left and came again through this node, which the watch tells late.
            Change::Gone { key, revision } if self.knows_newer(&key, revision) => {}
            Change::Gone { key, .. } => {
                self.seen.lock().remove(&key);
                self.registry.remove(&key);
            }
        }
    }

    /// Renews the registrations of instances that answer, and ends those that have not for the whole lease.
    async fn tend(&self) {
        let now = Instant::now();
        let lease = self.options.lease;
        let peers = self.registry.table().peers();
        for (key, registration) in self.registry.registered() {
            let Some(peer) = peers.iter().find(|peer| peer.address == registration.address) else { continue };
            let Some((revision, written)) = self.seen.lock().get(&key).copied() else { continue };
            let age = now.duration_since(written);
            let result = match peer.phase() {
                Phase::Up | Phase::HalfOpen | Phase::Ejected if age >= lease / RENEWALS => {
                    self.renew(&key, &registration, revision).await
                }
                Phase::Unprobed | Phase::Down
                    if age >= lease && now.duration_since(peer.since()) >= lease =>
                {
                    tracing::warn!(address = %registration.address, zone = registration.zone.as_str(),
                        "upstream forgotten: it has not answered for {lease:?}");
                    self.end(&key, revision).await
                }
                _ => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(%error, key, "lease of an upstream could not be tended");
            }
        }
    }

    async fn renew(
        &self,
        key: &str,
        registration: &Registration,
        revision: Revision,
    ) -> Result<(), BrokerError> {
        let condition = Condition::Revision(revision);
        let written = self.broker.put(key, encode(registration), condition, Life::Forever).await?;
        match written {
            Written::Done(revision) => self.saw(key, revision),
            // Somebody else wrote or removed it; the watch tells.
            Written::Refused(_) => {}
        }
        Ok(())
    }

    async fn end(&self, key: &str, revision: Revision) -> Result<(), BrokerError> {
        match self.broker.delete(key, Condition::Revision(revision)).await? {
            Deleted::Done => self.registry.remove(key),
            Deleted::Refused(_) => {}
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        // Any condition holds, so that nothing is refused.
        let (Deleted::Done | Deleted::Refused(_)) = self.broker.delete(key, Condition::Any).await?;
        self.registry.remove(key);
        Ok(())
    }

    /// An older version, told late by the watch, is not seen again.
    fn saw(&self, key: &str, revision: Revision) {
        let mut seen = self.seen.lock();
        match seen.get_mut(key) {
            Some((known, _)) if known.0 >= revision.0 => {}
            Some(entry) => *entry = (revision, Instant::now()),
            None => {
                seen.insert(key.to_owned(), (revision, Instant::now()));
            }
        }
    }

    fn knows_newer(&self, key: &str, revision: Revision) -> bool {
        self.seen.lock().get(key).is_some_and(|(known, _)| known.0 > revision.0)
    }

    fn decode(&self, key: &str, versioned: &Versioned) -> Option<Registration> {
        let request = wire::UpstreamRegisterRequest::decode(versioned.value.clone());
        let registration = request.map_err(|error| error.to_string()).and_then(|request| {
            Registration::parse(&request, &self.options.zones).map_err(|error| error.to_string())
        });
        registration
            .inspect_err(|error| tracing::warn!(key, error, "a kept registration is of no use here: ignored"))
            .ok()
    }
}

fn key(registration: &Registration) -> String {
    let Registration { zone, service, instance, .. } = registration;
    format!("{PREFIX}{}/{service}/{instance}", zone.as_str())
}

fn same_place(left: &Registration, right: &Registration) -> bool {
    left.address == right.address && left.zone == right.zone && left.service == right.service
}

/// As the schema has it, so that a later version reads it too.
fn encode(registration: &Registration) -> Bytes {
    let request = wire::UpstreamRegisterRequest {
        address: registration.address.as_str().to_owned(),
        zone_id: registration.zone.as_str().to_owned(),
        service_name: registration.service.clone(),
        instance_id: registration.instance.clone(),
        weight: registration.weight,
        idempotent_actions: registration.idempotent_actions.clone(),
        max_in_flight: registration.max_in_flight.unwrap_or(0),
        session_events: registration.session_events,
    };
    request.encode_to_vec().into()
}

fn failed(error: BrokerError) -> RegisterError {
    RegisterError::Failed(format!("the registration could not be kept: {error}"))
}
