//! The simulations.
mod calm;
mod clocks;
mod faults;
mod gossip;
mod host;
mod invariants;
mod ledger;
mod lives;
mod network;
mod observe;
mod rng;
mod settings;
mod trace;
mod workload;
mod world;

fn main() {
    let t = std::time::Instant::now();
    let mut steps = 0;
    let a: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let mut cov = std::collections::BTreeMap::new();
    for seed in a[0]..a[1] {
        let s = settings::Settings::draw(seed, None);
        let f = faults::draw(&s);
        let keep = a.len() > 2;
        let o = world::World::new(s.clone(), f, keep).run();
        for l in o.lines { println!("{l}"); }
        if !o.violations.is_empty() { println!("seed {seed} {:?} {s:?}", o.violations); }
        steps += o.steps;
        for (k, v) in o.coverage { *cov.entry(k).or_insert(0) += v; }
    }
    eprintln!("{cov:?} steps {steps} {:?}", t.elapsed());
}
