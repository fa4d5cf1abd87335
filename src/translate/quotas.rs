//! How much each namespace may have: the oldest load balancers are within it, on every replica alike.

use std::collections::BTreeMap;

use super::{Reason, findings::Place};
use crate::{
    model::ObjectKey,
    source::{Declared, Tenancy},
};

#[derive(Default)]
pub(super) struct Quotas<'a> {
    /// How many load balancers and listeners a namespace may have.
    most: (usize, usize),
    /// What each load balancer may have of its own.
    shares: BTreeMap<&'a ObjectKey, Share>,
}

#[derive(Clone, Copy)]
enum Share {
    Listeners(usize),
    Nothing,
}

impl<'a> Quotas<'a> {
    pub fn of(oldest_first: &[(&'a ObjectKey, &Declared)], tenancy: Option<&Tenancy>) -> Self {
        let Some(tenancy) = tenancy else { return Self::default() };
        let most = |cap: Option<u32>| cap.map_or(usize::MAX, |cap| usize::try_from(cap).unwrap_or(usize::MAX));
        let most = (most(tenancy.load_balancers_per_namespace), most(tenancy.listeners_per_namespace));
        let mut used: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut shares = BTreeMap::new();
        for (object, declared) in oldest_first {
            let (load_balancers, listeners) = used.entry(&object.namespace).or_default();
            let share = if *load_balancers < most.0 { Share::Listeners(most.1 - *listeners) } else { Share::Nothing };
            if let Share::Listeners(left) = share {
                *load_balancers += 1;
                *listeners += declared.spec.as_ref().map_or(0, |spec| spec.listeners.len()).min(left);
            }
            shares.insert(*object, share);
        }
        Self { most, shares }
    }

    /// How many of its listeners a load balancer may have, the first ones.
    pub fn listeners(&self, object: &ObjectKey) -> usize {
        match self.shares.get(object) {
            None => usize::MAX,
            Some(Share::Listeners(left)) => *left,
            Some(Share::Nothing) => 0,
        }
    }

    /// Says if the load balancer is one too many.
    pub fn check(&self, object: &ObjectKey, place: &mut Place) {
        if let Some(Share::Nothing) = self.shares.get(object) {
            let message = format!(
                "the administrator allows {} load balancers in namespace {}, and there are as many older ones: delete \
                 one of them",
                self.most.0, object.namespace
            );
            place.refuse_for(Reason::NotPermitted, message);
        }
    }

    /// Says if a listener is one too many.
    pub fn check_listener(&self, object: &ObjectKey, index: usize, place: &mut Place) {
        if let Some(Share::Listeners(left)) = self.shares.get(object)
            && index >= *left
        {
            let message = format!(
                "the administrator allows {} listeners in namespace {}, and there are as many of older load balancers \
                 and before this one: take out one of them",
                self.most.1, object.namespace
            );
            place.refuse_for(Reason::NotPermitted, message);
        }
    }
}
