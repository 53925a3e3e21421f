//! What dlv's attendants share: JSON-RPC as dlv speaks it, and its words made safe to show.

pub mod rpc;
pub mod text;
