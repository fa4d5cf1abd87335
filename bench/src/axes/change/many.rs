use anyhow::Result;

use crate::{
    backend::{Backends, Opening, local},
    load::client::Client,
};

pub const FIRST_PORT: u16 = 28500;

pub const BACKEND_PORT: u16 = 28320;

#[derive(Clone, Copy, Debug)]
pub struct Many {
    pub load_balancers: u16,
    /// The endpoints of each load balancer.
    pub endpoints: u8,
}

impl Many {
    /// The load balancer whose endpoint changes.
    pub fn changing(&self) -> u16 {
        self.load_balancers / 2
    }

    pub fn client(load_balancer: u16) -> Client {
        Client { server: local([127, 0, 0, 1], FIRST_PORT + load_balancer), tls: None }
    }

    /// The host address of an endpoint, numbered from 1. The number after the last is the replacement of the last one.
    pub fn host(endpoint: u8) -> [u8; 4] {
        [127, 10, 0, endpoint]
    }

    /// Adds servers that send their address.
    pub fn add_backends(&self, backends: &mut Backends) -> Result<()> {
        (1..=self.endpoints + 1)
            .try_for_each(|endpoint| backends.add(local(Self::host(endpoint), BACKEND_PORT), Opening::None))
    }
}
