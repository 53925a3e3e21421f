//! A ticket as a client uses it: where the gateway is, and what TLS needs.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};

use crate::{files, tls::Identity};

pub struct Ticket {
    pub id: String,
    /// None if the ticket names the host otherwise than by its address.
    pub gateway: Option<SocketAddr>,
    pub identity: Identity,
}

impl Ticket {
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::parse(&files::read(path)?).context("reading a ticket")
    }

    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().context("not TOML")?;
        let field = |name: &str| {
            let value = table.get(name).and_then(toml::Value::as_str);
            value.map(str::to_owned).with_context(|| format!("no {name} in it"))
        };
        let port = table.get("port").and_then(toml::Value::as_integer).context("no port in it")?;
        let port = u16::try_from(port).context("the port is none")?;
        let address = field("host")?.parse().ok();
        let identity = Identity {
            ca: field("ca")?,
            server_name: field("server_name")?,
            client: Some((field("certificate")?, field("key")?)),
        };
        let gateway = address.map(|address| SocketAddr::new(address, port));
        Ok(Self { id: field("id")?, gateway, identity })
    }
}
