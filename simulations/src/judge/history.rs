//! The history that several laws need.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fact, HostAt, KeyAt, RequestId, Terms};

/// A request that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) host: HostAt,
    pub(crate) key: KeyAt,
    pub(crate) asked_at: u64,
    /// The time of its current claim, the one with `epoch`.
    pub(crate) claimed_at: u64,
    pub(crate) epoch: u64,
    /// The highest granted epoch of the key at that time.
    pub(crate) above: u64,
    /// The end of its lease in true time, once it is granted.
    pub(crate) until: Option<u64>,
}

/// For each claim of a key, by epoch and host: the end of each voter's vote for it.
type VotesFor = BTreeMap<(u64, HostAt), BTreeMap<HostAt, u64>>;

/// The state of the world, as far as facts have shown it.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) terms: Terms,
    /// Requests that have not ended.
    pub(crate) open: BTreeMap<RequestId, Asked>,
    /// The recorded vote of each voter for each key. If a voter loses its memory, its votes stay
    /// until it votes again.
    votes: BTreeMap<(HostAt, KeyAt), (HostAt, u64)>,
    /// The highest epoch that each voter has ever voted for, by key.
    voted_for: BTreeMap<(HostAt, KeyAt), u64>,
    /// The highest granted epoch up to that one when the voter last lost its memory.
    lost: BTreeMap<(HostAt, KeyAt), u64>,
    /// Voters in recovery: they lost their memory and do not vote yet.
    pub(crate) recovering: BTreeSet<HostAt>,
    /// All granted epochs of each key.
    owners: Vec<BTreeSet<u64>>,
    /// The latest reported end of a lease of each key.
    last_end: Vec<u64>,
    /// Keys whose fence is too low because a voter in recovery depended on a clock that was set
    /// back.
    pub(crate) waived: BTreeSet<KeyAt>,
    /// `true` if a voter left recovery with too few replies and had other settings before. It may
    /// not know of its votes in an earlier incarnation.
    pub(crate) leans_on_settings: bool,
    /// Hosts that run in the other voter set.
    others: BTreeSet<HostAt>,
    pub(crate) settled_since: Option<u64>,
    /// The voters that ever had their vote recorded for a claim, and until when; `u64::MAX` if it
    /// still is.
    voted: BTreeMap<KeyAt, VotesFor>,
}

impl History {
    pub(crate) fn new(terms: Terms) -> Self {
        let keys = terms.voters.len();
        Self {
            terms,
            open: BTreeMap::new(),
            votes: BTreeMap::new(),
            voted_for: BTreeMap::new(),
            lost: BTreeMap::new(),
            recovering: BTreeSet::new(),
            owners: vec![BTreeSet::new(); keys],
            last_end: vec![0; keys],
            waived: BTreeSet::new(),
            leans_on_settings: false,
            others: BTreeSet::new(),
            settled_since: None,
            voted: BTreeMap::new(),
        }
    }

    /// Returns the highest epoch granted for this key so far, or zero.
    pub(crate) fn highest_owner(&self, key: KeyAt) -> u64 {
        self.owners[key].last().copied().unwrap_or_default()
    }

    /// Returns the highest epoch granted for this key that is not above `epoch`, or zero.
    fn owner_up_to(&self, key: KeyAt, epoch: u64) -> u64 {
        let up_to = self.owners[key].range(..=epoch).next_back();
        up_to.copied().unwrap_or_default()
    }

    /// Returns the latest end of any lease of this key, or `None` if none was granted.
    pub(crate) fn last_end(&self, key: KeyAt) -> Option<u64> {
        (!self.owners[key].is_empty()).then_some(self.last_end[key])
    }

    /// Returns the requests that hold this key at `at`, by their nodes' clocks.
    pub(crate) fn holders(&self, key: KeyAt, at: u64) -> impl Iterator<Item = (RequestId, &Asked)> {
        let of_key = self.open.iter().filter(move |(_, asked)| asked.key == key);
        of_key
            .filter(move |(_, asked)| asked.until.is_some_and(|until| at < until))
            .map(|(request, asked)| (*request, asked))
    }

    /// Returns the voters of a key in the voter set in which a host runs.
    pub(crate) fn voters_of(&self, key: KeyAt, host: HostAt) -> &[HostAt] {
        match self.others.contains(&host) {
            true => &self.terms.other_voters[key],
            false => &self.terms.voters[key],
        }
    }

    /// Returns the quorum of these voters.
    pub(crate) fn quorum_of(&self, key: KeyAt, host: HostAt) -> usize {
        self.voters_of(key, host).len() / 2 + 1
    }

    /// Returns how many voters of a key have their vote recorded for this host and epoch.
    pub(crate) fn votes_for(&self, key: KeyAt, host: HostAt, epoch: u64) -> usize {
        let voters = self.voters_of(key, host).iter();
        voters
            .filter(|voter| self.votes.get(&(**voter, key)) == Some(&(host, epoch)))
            .count()
    }

    /// Returns the last recorded vote of a voter.
    pub(crate) fn vote_of(&self, voter: HostAt, key: KeyAt) -> Option<(HostAt, u64)> {
        self.votes.get(&(voter, key)).copied()
    }

    /// Returns the highest epoch that a voter has ever voted for.
    pub(crate) fn voted_for(&self, voter: HostAt, key: KeyAt) -> u64 {
        let highest = self.voted_for.get(&(voter, key));
        highest.copied().unwrap_or_default()
    }

    /// Returns the highest granted epoch that a voter may have voted for before it lost its memory.
    pub(crate) fn lost_owner(&self, voter: HostAt, key: KeyAt) -> u64 {
        self.lost.get(&(voter, key)).copied().unwrap_or_default()
    }

    /// Returns the quorum of a key's voters in the first voter set.
    pub(crate) fn quorum(&self, key: KeyAt) -> usize {
        self.terms.voters[key].len() / 2 + 1
    }

    /// Adds a fact.
    pub(crate) fn keep(&mut self, at: u64, fact: &Fact) {
        match fact {
            Fact::Asked {
                request, host, key, ..
            } => {
                let asked = Asked {
                    host: *host,
                    key: *key,
                    asked_at: at,
                    claimed_at: at,
                    epoch: 0,
                    above: 0,
                    until: None,
                };
                self.open.insert(*request, asked);
            }
            Fact::Claimed { request, epoch } => self.keep_claim(at, *request, *epoch),
            Fact::Granted {
                request,
                epoch,
                until,
            } => {
                if let Some(asked) = self.open.get_mut(request) {
                    asked.until = Some(*until);
                    self.owners[asked.key].insert(*epoch);
                    let end = &mut self.last_end[asked.key];
                    *end = (*end).max(*until);
                }
            }
            Fact::Until { request, until } => {
                if let Some(asked) = self.open.get_mut(request) {
                    asked.until = Some(*until);
                    let end = &mut self.last_end[asked.key];
                    *end = (*end).max(*until);
                }
            }
            Fact::Over { request, .. } => {
                self.open.remove(request);
            }
            Fact::Voted { voter, key, to } => self.keep_vote(at, *voter, *key, *to),
            Fact::Forgot { voter } => {
                self.recovering.insert(*voter);
                self.keep_loss(*voter);
            }
            Fact::Returned {
                voter,
                fences,
                leans_on_wall_clock,
                leans_on_settings,
                ..
            } => {
                self.leans_on_settings |= leans_on_settings;
                self.keep_return(*voter, fences, *leans_on_wall_clock);
            }
            Fact::Resumed { voter } => {
                self.recovering.remove(voter);
                // Those that it has are recorded next.
                self.votes.retain(|(other, _), _| other != voter);
            }
            Fact::Changed { host, is_other } => {
                match is_other {
                    true => self.others.insert(*host),
                    false => self.others.remove(host),
                };
            }
            Fact::Settled => self.settled_since = Some(at),
            _ => {}
        }
    }

    fn keep_claim(&mut self, at: u64, request: RequestId, epoch: u64) {
        let Some(key) = self.open.get(&request).map(|asked| asked.key) else {
            return;
        };
        let above = self.highest_owner(key);
        if let Some(asked) = self.open.get_mut(&request) {
            asked.claimed_at = at;
            asked.epoch = epoch;
            asked.above = above;
        }
    }

    /// Returns `true` if another claim may have been granted while `asked` waited. Either a quorum
    /// had voted for it, or one voter had and it comes before `asked`: other votes may be unknown.
    pub(crate) fn may_have_granted(&self, asked: &Asked) -> bool {
        let claims = self.voted.get(&asked.key).into_iter().flatten();
        let others =
            claims.filter(|((epoch, host), _)| (*host, *epoch) != (asked.host, asked.epoch));
        let since = |until: &&u64| **until >= asked.asked_at;
        others
            .map(|((epoch, _), voters)| (*epoch, voters.values().filter(since).count()))
            .any(|(epoch, count)| {
                count >= self.quorum(asked.key) || count > 0 && epoch <= asked.epoch
            })
    }

    fn keep_vote(&mut self, at: u64, voter: HostAt, key: KeyAt, to: Option<(HostAt, u64)>) {
        let claims = self.voted.entry(key).or_default();
        if let Some((host, epoch)) = self.votes.get(&(voter, key)) {
            let voters = claims.entry((*epoch, *host)).or_default();
            voters.insert(voter, at);
        }
        if let Some((host, epoch)) = to {
            let voters = claims.entry((epoch, host)).or_default();
            voters.insert(voter, u64::MAX);
        }
        match to {
            Some((host, epoch)) => {
                self.votes.insert((voter, key), (host, epoch));
                let highest = self.voted_for.entry((voter, key)).or_default();
                *highest = (*highest).max(epoch);
            }
            None => {
                self.votes.remove(&(voter, key));
            }
        }
    }

    fn keep_loss(&mut self, voter: HostAt) {
        for key in 0..self.terms.voters.len() {
            let granted = self.owner_up_to(key, self.voted_for(voter, key));
            let lost = self.lost.entry((voter, key)).or_default();
            *lost = (*lost).max(granted);
        }
    }

    fn keep_return(&mut self, voter: HostAt, fences: &[(KeyAt, u64)], leans: bool) {
        self.recovering.remove(&voter);
        for (key, fence) in fences {
            // Its last `Vote` may have arrived after it lost its memory.
            let had = self.votes.remove(&(voter, *key)).map(|(_, epoch)| epoch);
            let had = had.filter(|epoch| self.owners[*key].contains(epoch));
            let needed = self.lost_owner(voter, *key).max(had.unwrap_or_default());
            if leans && *fence < needed {
                self.waived.insert(*key);
            }
        }
    }
}
