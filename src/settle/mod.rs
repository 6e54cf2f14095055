//! Settling: the one path that the function, the trigger, the batch and the sweep take.
//!
//! For a set of workflows: lock them, sum their usage with a snapshot taken after the locks, claim
//! what is new in `settlement`, deduct it from the balances, one UPDATE per account. The ledger
//! entries are written by the trigger on the users table. The rules are DESIGN's part P.
//!
//! Where several bindings know a workflow, each step is taken over all of them before the next one.

pub(crate) mod charge;
pub(crate) mod claim;
pub(crate) mod correct;
pub(crate) mod exempt;
pub(crate) mod lock;
pub(crate) mod moves;
pub(crate) mod occasion;
pub(crate) mod old_usage;
pub(crate) mod over;
pub(crate) mod refund;
pub(crate) mod rename;
pub(crate) mod retention;
pub(crate) mod settlement;
pub(crate) mod shares;
pub(crate) mod sweep;
pub(crate) mod usage;
pub(crate) mod work;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use charge::Charge;
use claim::{Accounted, Claim, unaccounted};
use lock::{lock_workflows, needs_locks};
use occasion::Occasion;
use usage::Usage;
use work::Work;

use crate::binding::{Bound, Payer};
use crate::counters::{Counter, count};
use crate::error::{Error, Result};
use crate::ledger::moved;
use crate::postgres::index_entry;
use crate::postgres::snapshot::uses_transaction_snapshot;

/// How many workflows are read and claimed at a time: memory grows by what is charged only.
const CHUNK: usize = 10_000;

/// What a settlement did, of one binding.
pub(crate) struct Settled {
    pub(crate) bound: Rc<Bound>,
    /// In the order in which they were made.
    pub(crate) charges: Vec<Charge>,
    /// Each of the workflows once, in order.
    pub(crate) workflows: Vec<Workflow>,
}

/// What is known of a workflow after settling.
pub(crate) struct Workflow {
    /// Its canonical id.
    pub(crate) id: String,
    /// Whether any usage row names the workflow.
    pub(crate) has_usage: bool,
    /// The accounts that its usage names, or that pay for it.
    pub(crate) accounts: Vec<String>,
}

/// Settle workflows. Everything that they have used and that was not charged yet is charged. What was done of each
/// binding, in the order of `works`, which is that of the bindings' numbers. `by` counts them for who watches.
///
/// Locks are taken in one order by everybody: workflows, settlements, accounts; workflows by
/// the hash of their id, settlements by binding and id, accounts by table and id.
pub(crate) fn settle(mut works: Vec<Work>, by: Counter) -> Result<Vec<Settled>> {
    rename::follow(works.iter().map(|work| &*work.bound))?;
    for work in &mut works {
        work.workflows.sort_unstable();
        work.workflows.dedup();
    }
    lock_workflows(
        works.iter().flat_map(|work| &work.workflows),
        works.iter().any(|work| needs_locks(&work.bound.binding)),
    );
    let mut claims = Vec::new();
    let mut found = Vec::with_capacity(works.len());
    for (place, work) in works.iter().enumerate() {
        let mut workflows = Vec::with_capacity(work.workflows.len());
        for chunk in work.workflows.chunks(CHUNK) {
            workflows.extend(claim(place, work, chunk, &mut claims)?);
        }
        found.push(workflows);
    }
    let mut charges = charge::charge(&works, claims)?;
    count(by, found.iter().map(Vec::len).sum());
    // One binding alone is mostly all that there is.
    let is_of_several = works.len() > 1;
    let works = works.into_iter().zip(found).enumerate();
    Ok(works
        .map(|(place, (Work { bound, .. }, workflows))| Settled {
            bound,
            charges: match is_of_several {
                true => charges
                    .extract_if(.., |charge| charge.place == place)
                    .collect(),
                false => std::mem::take(&mut charges),
            },
            workflows,
        })
        .collect())
}

/// Claim what the workflows have used and nobody has claimed.
///
/// The claim itself compares and sets, so it is right even for a statement that completes more
/// workflows than it may hold locks: whoever comes second finds the row changed and looks again.
fn claim(
    place: usize,
    work: &Work,
    workflows: &[String],
    claims: &mut Vec<Claim>,
) -> Result<Vec<Workflow>> {
    let usage = usage::read_or_warn(&work.bound, workflows, &work.occasion)?;
    let mut found = Vec::with_capacity(workflows.len());
    guess(place, work, (workflows, &usage), &mut found, claims)?;
    let left = found.len();
    if left == workflows.len() {
        return Ok(found);
    }
    let (left, usage) = (&workflows[left..], &usage[left..]);
    let mut overtaken = look_and_claim(place, work, (left, usage), &mut found, claims)?;
    while let Some(first) = overtaken.first() {
        if uses_transaction_snapshot() {
            return Err(Error::ConcurrentSettlement {
                workflow: first.workflow.clone(),
            });
        }
        let again: BTreeSet<_> = overtaken.iter().map(|claim| &claim.workflow).collect();
        let again: Vec<_> = again.into_iter().cloned().collect();
        let usage = usage::read_or_warn(&work.bound, &again, &work.occasion)?;
        let known = &mut Vec::with_capacity(again.len());
        let refused = look_and_claim(place, work, (&again, &usage), known, claims)?;
        // Who was overtaken finds what the other one has claimed.
        let is_known = |claim: &&Claim| overtaken.iter().any(|known| known.is_as_settled(claim));
        if let Some(claim) = refused.iter().find(is_known) {
            return Err(Error::ChargeSuppressed {
                relation: "token_balance.settlement".into(),
                account: claim.account.clone(),
            });
        }
        overtaken = refused;
    }
    Ok(found)
}

thread_local! {
    /// So many workflows are looked up before they are claimed.
    static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// After a guess that was wrong. Each leaves a dead row behind: at most one in so many.
const LOOKS_AFTER_A_WRONG_GUESS: usize = 100;

/// Claim as if nobody had claimed anything of these workflows, which is so for nearly all of them, and without a look:
/// that nobody has, the unique index says. Those that are done are added to `found`, until the first one of which
/// something is settled already or has to be told.
///
/// Not where the workflow's account pays: what another one has paid for is not seen without a look.
fn guess(
    place: usize,
    work: &Work,
    (workflows, usage): (&[String], &[Option<Usage>]),
    found: &mut Vec<Workflow>,
    claims: &mut Vec<Claim>,
) -> Result<()> {
    let Work {
        bound, occasion, ..
    } = work;
    let is_possible = matches!(bound.binding.payer, Payer::Usage(_))
        && !bound.binding.is_view_replaced()
        && !matches!(occasion, Occasion::Deletion)
        && claim::inserts(bound);
    let looks = LOOKS.get();
    if !is_possible || looks > 0 {
        LOOKS.set(looks.saturating_sub(workflows.len()));
        return Ok(());
    }
    let (mut first, mut guessed) = (Vec::new(), Vec::new());
    let nothing = Accounted::new();
    for (workflow, usage) in workflows.iter().zip(usage) {
        let Some(usage) = usage else { break };
        if usage.uncounted(&bound.binding).next().is_some() {
            break;
        }
        let mut accounts = Vec::new();
        let outstanding = outstanding(bound, workflow, occasion, usage, &nothing, &mut accounts)?;
        let of_workflow = outstanding
            .into_iter()
            .map(|(account, tokens)| claim_of(bound, (place, workflow), account, tokens, &nothing));
        let Ok(of_workflow) = of_workflow.collect::<Result<Vec<_>>>() else {
            break;
        };
        first.push(guessed.len());
        guessed.extend(of_workflow);
        found.push(Workflow {
            id: workflow.clone(),
            has_usage: !usage.is_empty(),
            accounts,
        });
    }
    let written = claim::insert(bound, &guessed);
    if written < guessed.len() {
        LOOKS.set(LOOKS_AFTER_A_WRONG_GUESS);
        // From the workflow of the first one in doubt on, all are looked up.
        found.truncate(first.partition_point(|first| *first <= written) - 1);
        guessed.truncate(written);
    }
    claims.append(&mut guessed);
    Ok(())
}

/// Claim what is not settled yet of the workflows, which are added to `found`. The claims come back that somebody else has
/// overtaken.
fn look_and_claim(
    place: usize,
    work: &Work,
    (workflows, usage): (&[String], &[Option<Usage>]),
    found: &mut Vec<Workflow>,
    claims: &mut Vec<Claim>,
) -> Result<Vec<Claim>> {
    let Work {
        bound, occasion, ..
    } = work;
    let is_replaced = bound.binding.is_view_replaced();
    let settled = claim::read_settled(bound, workflows)?;
    let mut due = Vec::new();
    for (workflow, (usage, settled)) in workflows.iter().zip(usage.iter().zip(&settled)) {
        let mut accounts = Vec::new();
        // What was settled by another view is not compared with this one.
        let is_of_another = is_replaced && !settled.is_empty();
        if is_of_another {
            let error = Error::ViewReplaced {
                relation: bound.binding.usage.sql.clone(),
            };
            occasion.warn(bound, error)?;
        }
        let comparable = usage.as_ref().filter(|_| !is_of_another);
        let comparable = comparable.map(|usage| match occasion {
            Occasion::Deletion => Cow::Owned(usage.with(settled.keys())),
            _ => Cow::Borrowed(usage),
        });
        let comparable = match comparable {
            Some(usage) => occasion.or_warn(
                bound,
                refuse_paid_elsewhere(bound, workflow, &usage, settled).map(|()| usage),
            )?,
            None => None,
        };
        if let Some(usage) = &comparable {
            warn_of_uncounted(bound, workflow, occasion, usage, &mut accounts)?;
            for (account, tokens) in
                outstanding(bound, workflow, occasion, usage, settled, &mut accounts)?
            {
                let claim = claim_of(bound, (place, workflow), account, tokens, settled);
                due.extend(occasion.or_warn(bound, claim)?);
            }
        }
        found.push(Workflow {
            id: workflow.clone(),
            has_usage: comparable.is_none_or(|usage| !usage.is_empty()),
            accounts,
        });
    }
    let (written, refused) = claim::write(bound, due)?;
    claims.extend(written);
    Ok(refused)
}

/// Where the workflow's account pays: error 55000 if anything is due, and somebody has paid for the workflow who has left. How
/// much that was is known elsewhere.
fn refuse_paid_elsewhere(
    bound: &Bound,
    workflow: &str,
    usage: &Usage,
    settled: &Accounted,
) -> Result<()> {
    if !moved::is_used(&bound.book) || !matches!(bound.binding.payer, Payer::Workflow(_)) {
        return Ok(());
    }
    for (payer, tokens) in usage.by_payer(&bound.binding) {
        let tokens = unaccounted(&tokens, settled, payer)?;
        if tokens <= 0 {
            continue;
        }
        for account in settled.keys() {
            if let Some(database) = moved::database(&bound.book, account)? {
                return Err(Error::UsageOfMovedAccount {
                    workflow: workflow.to_owned(),
                    account: account.clone(),
                    tokens,
                    database,
                });
            }
        }
    }
    Ok(())
}

fn warn_of_uncounted(
    bound: &Bound,
    workflow: &str,
    occasion: &Occasion,
    usage: &Usage,
    accounts: &mut Vec<String>,
) -> Result<()> {
    for account in usage.uncounted(&bound.binding) {
        let account = account.map(str::to_owned);
        accounts.extend(account.clone());
        let workflow = workflow.to_owned();
        occasion.warn(bound, Error::UncountedUsage { workflow, account })?;
    }
    Ok(())
}

/// What is used and not accounted for: (account, tokens above 0), in the order of accounts. A sum
/// that shrank, since usage rows were deleted, charges nothing and gives nothing back (`correct` does).
fn outstanding(
    bound: &Bound,
    workflow: &str,
    occasion: &Occasion,
    usage: &Usage,
    settled: &Accounted,
    accounts: &mut Vec<String>,
) -> Result<Vec<(String, i128)>> {
    let mut found = Vec::new();
    for (account, tokens) in usage.by_payer(&bound.binding) {
        let tokens = unaccounted(&tokens, settled, account)?;
        let account = match account {
            Some(account) => Some(account.to_owned()),
            // Nothing is due: who pays is not looked up.
            None if tokens <= 0 => None,
            None => occasion.or_warn(bound, payer(bound, workflow, occasion, tokens))?,
        };
        found.extend(account.map(|account| (account, tokens)));
    }
    found.sort_unstable();
    accounts.extend(found.iter().map(|(account, _)| account.clone()));
    found.retain(|(_, tokens)| *tokens > 0);
    Ok(found)
}

/// The account that pays for a workflow whose usage names none.
fn payer(bound: &Bound, workflow: &str, occasion: &Occasion, tokens: i128) -> Result<String> {
    let candidates = match occasion {
        Occasion::Completion { payers } => payers
            .get(workflow)
            .cloned()
            .flatten()
            .into_iter()
            .collect(),
        Occasion::Caller | Occasion::Sweep | Occasion::Deletion => usage::payers(bound, workflow)?,
    };
    let workflow = workflow.to_owned();
    match &candidates[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::NoPayer { workflow, tokens }),
        _ => Err(Error::SeveralPayers { workflow, tokens }),
    }
}

/// A claim that can be written: of an account that could exist, of ids that an index takes, of a sum that is a bigint.
fn claim_of(
    bound: &Bound,
    (place, workflow): (usize, &str),
    account: String,
    tokens: i128,
    settled: &Accounted,
) -> Result<Claim> {
    let workflow = workflow.to_owned();
    let Some(account) = bound.binding.accounts.user_key.key_type.canonical(&account) else {
        return Err(Error::UsageOfUnknownAccount {
            workflow,
            account,
            tokens,
        });
    };
    if !index_entry::fit(&[&workflow, &account]) {
        return Err(Error::IdsTooLong {
            workflow,
            account,
            tokens,
        });
    }
    let settled = settled.get(&account).cloned();
    let before = settled.as_ref().map_or(0, |settled| settled.usage);
    let is_total_in_range = i64::try_from(tokens + i128::from(before)).is_ok();
    match i64::try_from(tokens) {
        Ok(tokens) if is_total_in_range => Ok(Claim {
            place,
            workflow,
            account,
            tokens,
            settled,
        }),
        _ => Err(Error::BalanceOutOfRange {
            workflow,
            account,
            tokens,
        }),
    }
}
