//! A simulation of replicas in front of the same endpoints. Each replica knows only its own connections. Clients whose
//! connections are closed return after a while, to any replica.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
};

use fastrand::Rng;

use super::*;

const STEP: Duration = Duration::from_millis(100);
/// The maximum number of steps until a client returns.
const MAX_RETURN_STEPS: usize = 10;
/// The maximum number of steps that a short connection lasts.
const SHORT: usize = 5;

#[derive(Clone, Debug)]
pub struct Setting {
    pub algorithm: Algorithm,
    pub percent: u16,
    pub most_per_minute: u32,
    pub min_age: Duration,
    pub weights: Vec<u64>,
    pub replicas: usize,
}

pub struct RebalanceSimulation {
    random: Rng,
    algorithm: Algorithm,
    rebalancing: RebalancePolicy,
    weights: Vec<u64>,
    replicas: Vec<SimulatedReplica>,
    clients: Vec<Client>,
    /// The clients that return in each step.
    away: VecDeque<Vec<usize>>,
    /// The clients with short connections, by the step in which these end.
    short: VecDeque<Vec<usize>>,
    now: Instant,
    /// The number of steps without a change.
    quiet: usize,
    pub closed: usize,
}

struct SimulatedReplica {
    rebalancer: Rebalancer,
    /// The open connections of each endpoint, in the order in which they were accepted.
    open: Vec<VecDeque<(Instant, usize)>>,
    /// The total connections of each endpoint.
    connections: Vec<u64>,
    turn: u64,
    /// The closes in the last second, step by step, and the maximum.
    recently: VecDeque<usize>,
    most_in_a_second: usize,
}

#[derive(Default)]
struct Client {
    /// The client's replica and endpoint.
    place: Option<(usize, usize)>,
    closed: u32,
}

impl RebalanceSimulation {
    /// Connects the clients to the first `there` endpoints. The others have just joined.
    pub fn new(seed: u64, setting: &Setting, there: usize, clients: usize) -> Self {
        let Setting { algorithm, percent, most_per_minute, min_age, ref weights, replicas } = *setting;
        let max_closes_per_minute = NonZeroU32::new(most_per_minute).unwrap();
        let rebalance =
            model::Rebalance { max_imbalance_percent: percent, max_closes_per_minute, min_age, idle_only: false };
        let rebalancing = RebalancePolicy { rebalance, tolerance: Tolerance::of(algorithm, percent).unwrap() };
        let now = Instant::now();
        let replica = || SimulatedReplica {
            rebalancer: Rebalancer::new(&rebalance, now),
            open: vec![VecDeque::new(); weights.len()],
            connections: vec![0; weights.len()],
            turn: 0,
            recently: VecDeque::from([0; 10]),
            most_in_a_second: 0,
        };
        let mut scene = Self {
            random: Rng::with_seed(seed),
            algorithm,
            rebalancing,
            weights: weights.clone(),
            replicas: (0..replicas).map(|_| replica()).collect(),
            clients: Vec::new(),
            away: VecDeque::from(vec![Vec::new(); MAX_RETURN_STEPS]),
            short: VecDeque::from(vec![Vec::new(); SHORT]),
            now,
            quiet: 0,
            closed: 0,
        };
        scene.weights[there..].fill(0);
        for _ in 0..clients {
            scene.come();
        }
        scene.weights.clone_from(weights);
        scene
    }

    /// With a probability of this many tenths a client arrives, and with the same probability one leaves. Returns the
    /// number of these changes.
    pub fn churn(&mut self, tenths: u32) -> u32 {
        let (comes, goes) = (self.random.u32(..10) < tenths, self.random.u32(..10) < tenths);
        if comes {
            self.come();
        }
        if goes {
            let client = self.random.usize(..self.clients.len());
            self.leave(client);
        }
        if comes || goes {
            self.quiet = 0;
        }
        u32::from(comes) + u32::from(goes)
    }

    fn come(&mut self) -> usize {
        let client = self.clients.len();
        self.clients.push(Client::default());
        self.connect(client);
        client
    }

    /// Starts up to this many short connections, and ends others.
    pub fn come_and_go_at_once(&mut self, most: usize) {
        for client in self.short.pop_front().unwrap() {
            self.leave(client);
        }
        self.short.push_back(Vec::new());
        for _ in 0..self.random.usize(..most) {
            let (client, after) = (self.come(), self.random.usize(..SHORT));
            self.short[after].push(client);
        }
    }

    /// Returns some clients, then lets each replica close its excess.
    pub fn step(&mut self) {
        let back = self.away.pop_front().unwrap();
        self.away.push_back(Vec::new());
        let mut is_quiet = back.is_empty();
        back.into_iter().for_each(|client| self.connect(client));
        self.now += STEP;
        for at in 0..self.replicas.len() {
            self.look(at);
            is_quiet &= self.replicas[at].rebalancer.too_many() == 0;
        }
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
    }

    /// True if the simulation is settled: no sustained excess, and no client is away.
    pub fn is_over(&self) -> bool {
        self.quiet as u32 * STEP > SUSTAINED_AFTER + MAX_RETURN_STEPS as u32 * STEP
    }

    /// True if an endpoint of a replica has an excess now, without regard to closed connections.
    pub fn has_excess(&self) -> bool {
        let has_too_many = |at: usize| {
            let loads: Vec<Load> = self.endpoint(at).iter().map(|endpoint| endpoint.load).collect();
            excesses(&loads, 0, self.rebalancing.tolerance).iter().any(|count| *count > 0)
        };
        (0..self.replicas.len()).any(has_too_many)
    }

    /// The excess of each endpoint over all replicas, none of which knows all connections.
    pub fn too_many(&self) -> Vec<f64> {
        let of_all =
            |endpoint: usize| self.replicas.iter().map(|replica| replica.open[endpoint].len() as f64).sum::<f64>();
        let all: f64 = (0..self.weights.len()).map(of_all).sum();
        let (total, part) =
            (self.weights.iter().sum::<u64>() as f64, 1.0 + f64::from(self.rebalancing.tolerance.percent) / 100.0);
        let most = |endpoint: usize| all * self.weights[endpoint] as f64 / total * part;
        (0..self.weights.len()).map(|endpoint| (of_all(endpoint) - most(endpoint)).max(0.0)).collect()
    }

    /// The number of closes of each client.
    pub fn moves(&self) -> impl Iterator<Item = u32> {
        self.clients.iter().map(|client| client.closed)
    }

    /// The maximum number of closes by one replica in a second.
    pub fn most_in_a_second(&self) -> usize {
        self.replicas.iter().map(|replica| replica.most_in_a_second).max().unwrap_or(0)
    }

    fn look(&mut self, at: usize) {
        let closed = self.close_what_is_due(at);
        self.closed += closed;
        let replica = &mut self.replicas[at];
        replica.recently.pop_front();
        replica.recently.push_back(closed);
        replica.most_in_a_second = replica.most_in_a_second.max(replica.recently.iter().sum());
    }

    fn close_what_is_due(&mut self, at: usize) -> usize {
        let (groups, now) = ([self.endpoint(at)], self.now);
        let replica = &mut self.replicas[at];
        let due = replica.rebalancer.due(&self.rebalancing, &groups, now);
        if due.is_empty() {
            return 0;
        }
        let established: BTreeMap<u64, u32> = (0..).zip(replica.open.iter().map(|open| open.len() as u32)).collect();
        let confirmed = replica.rebalancer.confirmed(&self.rebalancing, &groups, &due, &established);
        let closed = confirmed.iter().map(|(id, count)| (*id, self.close(at, *id as usize, *count))).collect();
        self.replicas[at].rebalancer.record(&due, &closed, now)
    }

    /// Closes up to `count` connections that are old enough, the oldest first.
    fn close(&mut self, at: usize, endpoint: usize, count: usize) -> usize {
        let mut closed = 0;
        while closed < count {
            let open = &mut self.replicas[at].open[endpoint];
            let is_old = |(since, _): &mut (Instant, usize)| *since + self.rebalancing.rebalance.min_age < self.now;
            let Some((_, client)) = open.pop_front_if(is_old) else { break };
            self.clients[client].place = None;
            self.clients[client].closed += 1;
            let after = self.random.usize(..MAX_RETURN_STEPS);
            self.away[after].push(client);
            closed += 1;
        }
        closed
    }

    fn endpoint(&self, at: usize) -> Vec<EndpointLoad> {
        let replica = &self.replicas[at];
        let endpoint = |(endpoint, weight): (usize, &u64)| EndpointLoad {
            id: endpoint as u64,
            load: Load { open: replica.open[endpoint].len() as u32, weight: *weight },
            connections: replica.connections[endpoint],
        };
        self.weights.iter().enumerate().map(endpoint).collect()
    }

    fn leave(&mut self, client: usize) {
        if let Some((at, endpoint)) = self.clients[client].place.take() {
            self.replicas[at].open[endpoint].retain(|(_, other)| *other != client);
        }
    }

    /// Connects a client to a random replica, which picks an endpoint by its algorithm.
    fn connect(&mut self, client: usize) {
        let (at, total) = (self.random.usize(..self.replicas.len()), self.weights.iter().sum::<u64>());
        let [one, other] = [(); 2].map(|()| self.random.u64(..total)).map(|point| self.covering(point));
        let relative =
            |endpoint: &usize| self.replicas[at].open[*endpoint].len() as f64 / self.weights[*endpoint] as f64;
        let compare = |one: &usize, other: &usize| relative(one).total_cmp(&relative(other));
        let endpoint = match self.algorithm {
            Algorithm::LeastConnections => {
                (0..self.weights.len()).filter(|endpoint| self.weights[*endpoint] > 0).min_by(compare).unwrap()
            }
            Algorithm::PowerOfTwo if compare(&one, &other).is_gt() => other,
            Algorithm::PowerOfTwo | Algorithm::Random => one,
            Algorithm::RoundRobin => self.in_turn(at),
            Algorithm::Maglev => unreachable!("it is not rebalanced"),
        };
        let replica = &mut self.replicas[at];
        replica.open[endpoint].push_back((self.now, client));
        replica.connections[endpoint] += 1;
        self.clients[client].place = Some((at, endpoint));
    }

    fn in_turn(&mut self, replica: usize) -> usize {
        let turn = self.replicas[replica].turn % self.weights.iter().sum::<u64>();
        self.replicas[replica].turn += 1;
        self.covering(turn)
    }

    /// The endpoint that covers this point, with all weights in a row.
    fn covering(&self, mut point: u64) -> usize {
        let covers = |weight: &u64| match point.checked_sub(*weight) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        };
        self.weights.iter().position(covers).unwrap()
    }
}
