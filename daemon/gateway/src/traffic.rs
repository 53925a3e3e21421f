//! Counts bytes: once for the connection, for its closing line, and once for the whole gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the gateway has done since its start.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) bytes: Bytes,
}

/// Bytes from clients and to them, without what TLS adds.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    pub(crate) inward: AtomicU64,
    pub(crate) outward: AtomicU64,
}

/// One connection's share of them.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) own: Bytes,
    totals: Arc<Totals>,
}

impl Traffic {
    pub(crate) fn part_of(totals: Arc<Totals>) -> Self {
        Self { own: Bytes::default(), totals }
    }

    /// Bytes that went from the client to the debugger.
    pub(crate) fn inward(&self, bytes: usize) {
        add(&self.own.inward, &self.totals.bytes.inward, bytes);
    }

    /// Bytes that went from the debugger to the client.
    pub(crate) fn outward(&self, bytes: usize) {
        add(&self.own.outward, &self.totals.bytes.outward, bytes);
    }
}

fn add(own: &AtomicU64, total: &AtomicU64, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    own.fetch_add(bytes, Relaxed);
    total.fetch_add(bytes, Relaxed);
}
