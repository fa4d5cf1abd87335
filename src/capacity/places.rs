//! A limited number of places, with a guaranteed part for every holder.

use super::sync::{Arc, AtomicUsize, Ordering::Relaxed};

/// Places of a limited resource: connections of the process, entries for client addresses.
///
/// Each holder is guaranteed an equal number of a part of the places. Any holder may borrow the others, first come,
/// first served. A holder that takes as many as possible thus leaves every other holder its guaranteed places, and
/// unused places are not wasted.
///
/// Taking a guaranteed place is one atomic operation on the holder's own count, without a lock.
#[derive(Debug)]
pub struct Places {
    total: AtomicUsize,
    terms: Terms,
    /// The number of places that may be borrowed.
    lendable: AtomicUsize,
    lent: AtomicUsize,
}

/// The rules for dividing places.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// One in this number of places is guaranteed to a holder. Never zero.
    pub guaranteed_one_in: usize,
    /// The number of future holders for which guaranteed places are reserved.
    pub to_come: usize,
    /// A holder may borrow up to this multiple of the remaining places. `usize::MAX`: all of them.
    pub borrowed_to_left: usize,
}

impl Places {
    /// All places can be borrowed until [`Self::divide`] is called.
    pub fn new(total: usize, terms: Terms) -> Self {
        Self { total: AtomicUsize::new(total), terms, lendable: AtomicUsize::new(total), lent: AtomicUsize::new(0) }
    }

    pub fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// The number of borrowed places.
    pub fn lent(&self) -> usize {
        self.lent.load(Relaxed)
    }

    /// Divides `total` places among `holders`. Taken places stay taken: a holder that has more than its new guarantee
    /// keeps them, and so do `former` holders, which have no guaranteed places from now on.
    pub fn divide<'a>(
        &self,
        total: usize,
        holders: impl Iterator<Item = &'a Share> + Clone,
        former: impl Iterator<Item = &'a Share>,
    ) {
        let count = (holders.clone().count() + self.terms.to_come).max(1);
        let each = (total / self.terms.guaranteed_one_in / count).max(1).min(total / count);
        let set = |share: &Share, guaranteed: usize| {
            share.guaranteed.store(guaranteed, Relaxed);
            share.own.load(Relaxed).max(guaranteed)
        };
        let of_holders: usize = holders.map(|share| set(share, each)).sum();
        let of_former: usize = former.map(|share| set(share, 0)).sum();
        self.total.store(total, Relaxed);
        let to_come = each * self.terms.to_come;
        self.lendable.store(total.saturating_sub(of_holders + of_former + to_come), Relaxed);
    }

    fn lend(&self, borrowed: usize) -> bool {
        let lend = |lent: usize| {
            let left = self.lendable.load(Relaxed).saturating_sub(lent);
            let most = left.saturating_mul(self.terms.borrowed_to_left);
            (left > 0 && borrowed < most).then_some(lent + 1)
        };
        self.lent.fetch_update(Relaxed, Relaxed, lend).is_ok()
    }
}

/// The places of one holder.
#[derive(Debug)]
pub struct Share {
    places: Arc<Places>,
    guaranteed: AtomicUsize,
    /// The number of guaranteed places that are taken.
    own: AtomicUsize,
    borrowed: AtomicUsize,
}

/// The kind of a place, needed to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    Guaranteed,
    Borrowed,
}

impl Share {
    /// The share of a holder without guaranteed places.
    pub fn new(places: Arc<Places>) -> Self {
        let [guaranteed, own, borrowed] = [0; 3].map(AtomicUsize::new);
        Self { places, guaranteed, own, borrowed }
    }

    /// Takes a place. `None`: all guaranteed places are taken, and none can be borrowed.
    pub fn take(&self) -> Option<PlaceKind> {
        let take = |own: usize| (own < self.guaranteed.load(Relaxed)).then_some(own + 1);
        if self.own.fetch_update(Relaxed, Relaxed, take).is_ok() {
            return Some(PlaceKind::Guaranteed);
        }
        self.places.lend(self.borrowed.load(Relaxed)).then(|| {
            self.borrowed.fetch_add(1, Relaxed);
            PlaceKind::Borrowed
        })
    }

    pub fn give_back(&self, place: PlaceKind) {
        match place {
            PlaceKind::Guaranteed => {
                self.own.fetch_sub(1, Relaxed);
            }
            PlaceKind::Borrowed => {
                self.borrowed.fetch_sub(1, Relaxed);
                self.places.lent.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Gives a place back; [`Places::divide`] must not run at the same time. A place beyond the guaranteed ones can be
    /// borrowed at once. Returns the kind of the free place.
    pub fn give_back_undivided(&self, place: PlaceKind) -> PlaceKind {
        let exceeds = place == PlaceKind::Guaranteed && self.own.load(Relaxed) > self.guaranteed.load(Relaxed);
        self.give_back(place);
        if exceeds {
            self.places.lendable.fetch_add(1, Relaxed);
            return PlaceKind::Borrowed;
        }
        place
    }

    /// A place that is given back when the permit is dropped.
    pub fn permit(share: &Arc<Self>) -> Option<Permit> {
        share.take().map(|place| Permit { share: Arc::clone(share), place })
    }

    pub fn guaranteed(&self) -> usize {
        self.guaranteed.load(Relaxed)
    }

    pub fn in_use(&self) -> usize {
        self.own.load(Relaxed) + self.borrowed.load(Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.places.lent.fetch_sub(self.borrowed.load(Relaxed), Relaxed);
    }
}

/// A place of a [`Share`].
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Permit {
    share: Arc<Share>,
    place: PlaceKind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.give_back(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { guaranteed_one_in: 4, to_come: 1, borrowed_to_left: usize::MAX };

    fn shares<const N: usize>(places: &Arc<Places>) -> [Arc<Share>; N] {
        [(); N].map(|()| Arc::new(Share::new(Arc::clone(places))))
    }

    fn divide(places: &Places, total: usize, holders: &[Arc<Share>], former: &[Arc<Share>]) {
        places.divide(total, holders.iter().map(|share| &**share), former.iter().map(|share| &**share));
    }

    fn take_all(share: &Arc<Share>) -> Vec<Permit> {
        std::iter::from_fn(|| Share::permit(share)).collect()
    }

    #[test]
    fn holders_that_take_all_they_can_leave_every_other_one_its_guaranteed_places() {
        let places = Arc::new(Places::new(160, TERMS));
        let holders: [_; 3] = shares(&places);
        divide(&places, 160, &holders, &[]);
        assert_eq!(holders[0].guaranteed(), 10);
        let greedy = [take_all(&holders[0]), take_all(&holders[1])];
        assert_eq!(greedy.each_ref().map(Vec::len), [130, 10], "its own, and all that is not guaranteed to anyone");
        assert_eq!(take_all(&holders[2]).len(), 10);

        let late: [_; 1] = shares(&places);
        let all: Vec<_> = holders.iter().chain(&late).cloned().collect();
        divide(&places, 160, &all, &[]);
        let of_late = take_all(&late[0]);
        assert_eq!(of_late.len(), 8, "they were kept free for one that is still to come");
        drop((greedy, of_late));
        assert_eq!(places.lent(), 0);
        assert!(all.iter().all(|share| share.in_use() == 0));
    }

    #[test]
    fn places_are_taken_back_only_as_they_are_given_back() {
        let places = Arc::new(Places::new(100, TERMS));
        let [share] = shares(&places);
        divide(&places, 100, std::slice::from_ref(&share), &[]);
        let mut permits = take_all(&share);
        assert_eq!(permits.len(), 88, "all but what one is to come for");
        divide(&places, 50, std::slice::from_ref(&share), &[]);
        assert!(Share::permit(&share).is_none(), "there are fewer now");
        permits.truncate(40);
        assert!(Share::permit(&share).is_some());
        divide(&places, 50, &[], std::slice::from_ref(&share));
        assert_eq!(share.guaranteed(), 0);
        drop(permits);
        assert_eq!((share.in_use(), places.lent()), (0, 0));
    }

    #[test]
    fn a_holder_that_may_borrow_as_much_as_it_leaves_takes_half() {
        let places = Arc::new(Places::new(1000, Terms { guaranteed_one_in: 2, to_come: 0, borrowed_to_left: 1 }));
        let holders: [_; 2] = shares(&places);
        divide(&places, 1000, &holders, &[]);
        let first = take_all(&holders[0]);
        let second = take_all(&holders[1]);
        assert_eq!((first.len(), second.len()), (250 + 250, 250 + 125));
    }
}
