//! The two protocols that dlv speaks on one socket: how their messages are told apart, cut out of
//! the byte stream and read. What may pass is decided in `policy`.

pub(crate) mod dap;
pub(crate) mod framing;
pub(crate) mod rpc;
pub(crate) mod strict;

/// One of dlv's protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// The Debug Adapter Protocol.
    Dap,
    /// JSON-RPC 1.0 with dlv's API version 2.
    JsonRpc,
}

impl Protocol {
    /// By the first byte, as dlv does it (service/rpccommon/server.go, `serveConnectionDemux`).
    pub(crate) fn of_first_byte(byte: u8) -> Self {
        if byte == b'C' { Self::Dap } else { Self::JsonRpc }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dap => "dap",
            Self::JsonRpc => "json-rpc",
        }
    }
}
