//! The bounds that do not come with the configuration: how long a peer may take for what.

use std::time::Duration;

/// Tests shorten these; the program runs with the defaults.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the accepted connection to the verified certificate.
    pub handshake: Duration,
    /// For dlv to take a connection; its socket is local, so this is long.
    pub dial: Duration,
    /// How long one side may stay silent after the other has finished.
    pub close_grace: Duration,
    /// For one attempt to let the target go when the last client has gone.
    pub release: Duration,
    /// From the start of a control request to its last byte, and the same for its answer.
    pub control_request: Duration,
    /// Control connections at once.
    pub control_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            dial: Duration::from_secs(5),
            close_grace: Duration::from_secs(5),
            release: Duration::from_secs(4),
            control_request: Duration::from_secs(5),
            control_connections: 8,
        }
    }
}
