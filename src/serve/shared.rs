//! What all requests share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::deadline::Deadline;
use super::hosted::{Hosted, Indexes};
use super::metrics::Metrics;
use super::shadow::Shadow;
use super::workers::Workers;
use super::{ApiKeys, Events, Fault, Limits, ServeError, ServeOptions};
use crate::loader::{Answers, Index, Prepared, Query};
use crate::vectors::{RowId, VectorView};

pub(super) struct Shared {
    pub indexes: Indexes,
    pub metrics: Arc<Metrics>,
    pub workers: Workers,
    pub keys: ApiKeys,
    pub limits: Limits,
    pub events: Events,
    shadow: Shadow,
    clients: Mutex<HashMap<Client, usize>>,
    draining: AtomicBool,
}

/// A version of an index, and whose rows of it are seen: a tenant's, or all.
#[derive(Clone, Copy)]
pub(super) struct Seen<'i> {
    pub name: &'i str,
    pub index: &'i Arc<Index>,
    pub tenant: Option<&'i RowId>,
}

/// Who asks: by the place of the key, or by address where there are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Key(usize),
    Address(IpAddr),
}

/// A client's request under way; done when dropped.
pub(super) struct Share {
    shared: Arc<Shared>,
    client: Client,
}

impl Shared {
    pub fn open(options: ServeOptions, events: Events) -> Result<Self, ServeError> {
        let ServeOptions { indexes, open, shadow_rate, keys, limits, .. } = options;
        if !(0.0..=1.0).contains(&shadow_rate) {
            return Err(ServeError::ShadowRate { got: shadow_rate });
        }
        let metrics = Arc::new(Metrics::new());
        Ok(Self {
            indexes: Indexes::open(&indexes, &open, &metrics, &events)?,
            workers: Workers::new(limits.workers, limits.waiting, limits.request_time),
            shadow: Shadow::start(shadow_rate, metrics.clone()).map_err(ServeError::Start)?,
            metrics,
            keys,
            limits,
            events,
            clients: Mutex::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// Counts one more request of a client.
    pub fn share(self: &Arc<Self>, client: Client) -> Result<Share, Fault> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = clients.entry(client).or_default();
        if *under_way >= self.limits.per_client {
            return Err(Fault::Greedy { allowed: self.limits.per_client });
        }
        *under_way += 1;
        Ok(Share { shared: self.clone(), client })
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether new requests should come here.
    pub fn is_ready(&self) -> bool {
        let is_whole = |hosted: &Arc<Hosted>| hosted.current().damage().is_none_or(<[_]>::is_empty);
        !self.draining.load(Ordering::Relaxed) && self.indexes.iter().all(is_whole)
    }

    /// Searches what is seen of an index by the deadline, counts and now and then compares.
    pub fn search<'i>(
        &self,
        seen: Seen<'i>,
        query: Query,
        vectors: VectorView<'_>,
        deadline: Deadline,
    ) -> Result<(Prepared<'i>, Answers), Fault> {
        let Seen { name, index, tenant } = seen;
        // The comparison has as long again, later.
        let mut query = query.timeout(deadline.allowed());
        if let Some(tenant) = tenant {
            query = query.partition(tenant.clone());
        }
        let prepared = deadline.of(index.prepare(&query.clone().until(deadline.end())))?;
        let mut answers = Answers::new();
        prepared.search(vectors, &mut answers)?;
        self.metrics.searched(name, vectors.rows());
        self.shadow.see(name, index, &query, vectors, (prepared.way(), &answers));
        Ok((prepared, answers))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = clients.get_mut(&self.client) {
            *under_way -= 1;
            if *under_way == 0 {
                clients.remove(&self.client);
            }
        }
    }
}
