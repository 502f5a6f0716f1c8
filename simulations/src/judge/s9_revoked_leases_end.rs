//! **S9 revoked leases end** (`docs/protocol.md`, section 1): after a quorum has confirmed that a
//! claim is revoked, its lease is over within `max_ttl`.
//!
//! A voter that resumes, or comes back without its memory, has forgotten the claim. One that lost its
//! memory after the quorum had confirmed comes back only after the lease is over. Judged if clocks
//! keep `max_drift`, and only with one voter set. Judged are claims that were granted before the
//! revoke began: facts name a claim by its epoch, and the request of a pending claim goes on under the
//! same epoch.

use std::collections::BTreeMap;

use super::history::Asked;
use super::{Fact, History, HostAt, KeyAt, Law, RequestId};

/// A claim that a quorum has revoked: those of its voters that remember it, and the end of its lease.
struct Ending {
    voters: Vec<HostAt>,
    ends: u64,
}

#[derive(Default)]
struct Revoked {
    claims: BTreeMap<(KeyAt, (HostAt, u64)), Ending>,
    /// When each voter last lost or read its memory.
    restarted: BTreeMap<HostAt, u64>,
    /// When each open request was granted.
    granted: BTreeMap<RequestId, u64>,
    has_other_set: bool,
}

pub(super) fn law() -> Box<Law> {
    let mut it = Revoked::default();
    Box::new(move |at, fact, history| it.judge(at, fact, history))
}

impl Revoked {
    fn judge(&mut self, at: u64, fact: &Fact, history: &History) -> Option<String> {
        match fact {
            Fact::Changed { is_other: true, .. } => self.has_other_set = true,
            Fact::Forgot { voter } => {
                self.restarted.insert(*voter, at);
            }
            Fact::Resumed { voter } => {
                self.restarted.insert(*voter, at);
                for (claim, ending) in &mut self.claims {
                    ending.voters.retain(|other| other != voter);
                    if ending.voters.len() < history.quorum(claim.0) {
                        ending.ends = u64::MAX;
                    }
                }
            }
            Fact::Revoked {
                key,
                claim,
                voters,
                since,
                ends,
            } => {
                let restarted = |voter: &HostAt| self.restarted.get(voter).copied();
                let remembers = |voter: &&HostAt| restarted(voter).is_none_or(|it| it < *since);
                let voters: Vec<HostAt> = voters.iter().filter(remembers).copied().collect();
                if voters.len() < history.quorum(*key) {
                    return None;
                }
                let ends = *ends;
                let mut open = history.open.iter();
                let is_it =
                    |asked: &Asked| asked.key == *key && (asked.host, asked.epoch) == *claim;
                let (request, held) = open.find(|(_, asked)| is_it(asked))?;
                let until = held.until?;
                if self.granted.get(request).is_none_or(|at| at > since) {
                    return None;
                }
                self.claims.insert((*key, *claim), Ending { voters, ends });
                return self.too_long(*key, *claim, until, history);
            }
            Fact::Granted {
                request,
                epoch,
                until,
            } => {
                self.granted.insert(*request, at);
                let asked = history.open.get(request)?;
                return self.too_long(asked.key, (asked.host, *epoch), *until, history);
            }
            Fact::Over { request, .. } => {
                self.granted.remove(request);
            }
            Fact::Until { request, until } => {
                let asked = history.open.get(request)?;
                return self.too_long(asked.key, (asked.host, asked.epoch), *until, history);
            }
            _ => {}
        }
        None
    }

    fn too_long(
        &self,
        key: KeyAt,
        claim: (HostAt, u64),
        until: u64,
        history: &History,
    ) -> Option<String> {
        let ending = self.claims.get(&(key, claim))?;
        let is_judged =
            history.terms.clocks_kept && !history.leans_on_settings && !self.has_other_set;
        (is_judged && until > ending.ends).then(|| {
            format!(
                "key {key}: the lease of host {} under epoch {} was revoked by a quorum, and lasts \
                 {} ms too long",
                claim.0,
                claim.1,
                (until - ending.ends) / 1_000_000
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::super::forged::*;
    use super::*;

    /// A lease of host 2 that voters 0 and 1 have revoked, and its renewal until `until`.
    fn facts(until: u64) -> Vec<(u64, Fact)> {
        let revoked = Fact::Revoked {
            key: 0,
            claim: (2, 10),
            voters: vec![0, 1],
            since: 20,
            ends: 130,
        };
        let request = RequestId(1);
        vec![
            (0, asked(1, 2)),
            (0, claimed(1, 10)),
            (1, granted(1, 10, 100)),
            (30, revoked),
            (40, Fact::Until { request, until }),
        ]
    }

    #[test]
    fn renewal_of_revoked_lease_is_rejected() {
        for (until, count) in [(130, 0), (131, 1)] {
            assert_eq!(rejected(law(), terms(), &facts(until)), count);
        }
        let mut terms = terms();
        terms.clocks_kept = false;
        assert_eq!(rejected(law(), terms, &facts(131)), 0);
    }

    /// The request was pending when the revoke began, and went on with another claim.
    #[test]
    fn lease_granted_after_the_revoke_began_is_not_judged() {
        let mut facts = facts(131);
        facts[2].0 = 21;
        assert_eq!(rejected(law(), terms(), &facts), 0);
    }

    #[test]
    fn lease_that_is_too_long_when_revoked_is_rejected() {
        let mut facts = facts(131);
        facts.swap(3, 4);
        facts[3].0 = 25;
        assert_eq!(rejected(law(), terms(), &facts), 1);
    }

    #[test]
    fn voters_that_forgot_confirm_nothing() {
        for (at, place, fact, count) in [
            (19, 3, Fact::Forgot { voter: 0 }, 1),
            (25, 3, Fact::Forgot { voter: 0 }, 0),
            (35, 4, Fact::Forgot { voter: 0 }, 1),
            (35, 4, Fact::Resumed { voter: 0 }, 0),
            (35, 4, Fact::Resumed { voter: 2 }, 1),
        ] {
            let mut facts = facts(131);
            facts.insert(place, (at, fact.clone()));
            assert_eq!(rejected(law(), terms(), &facts), count, "{at} {fact:?}");
        }
    }
}
