use std::net::Ipv4Addr;

use imbl::OrdMap;

use crate::{
    model::ObjectKey,
    shared::changes,
    world::{Declared, ProcessMode, World},
};

/// The load balancers of a gateway by placement: those served by this process, and those served by sidecars, which are
/// only validated here.
#[derive(Default)]
pub struct Placements {
    all: OrdMap<ObjectKey, Declared>,
    here: OrdMap<ObjectKey, Declared>,
    in_pods: OrdMap<ObjectKey, Declared>,
}

impl Placements {
    /// Splits a world by placement. `None`: this process serves all load balancers.
    pub fn split(&mut self, world: &World) -> Option<(World, World)> {
        if !matches!(world.mode, ProcessMode::Gateway(..)) {
            *self = Self::default();
            return None;
        }
        for (object, before, now) in changes(&self.all, &world.load_balancers) {
            if before.is_some() {
                self.here.remove(object);
                self.in_pods.remove(object);
            }
            if let Some(declared) = now {
                let part = if declared.is_in_pods() { &mut self.in_pods } else { &mut self.here };
                part.insert(object.clone(), declared.clone());
            }
        }
        self.all = world.load_balancers.clone();
        if self.in_pods.is_empty() {
            return None;
        }
        let here = World { load_balancers: self.here.clone(), ..world.clone() };
        let mode = ProcessMode::Sidecar(Ipv4Addr::LOCALHOST.into());
        let in_pods = World { load_balancers: self.in_pods.clone(), mode, ..world.clone() };
        Some((here, in_pods))
    }
}
