//! `--sessions`: sequences of 5 to 40 steps over one or two sessions, each from a seed, at
//! PostgreSQL and through the gateway; every step must bring the same. One after the other:
//! nobody else writes at the source's cluster. Many sequences are shared by workers, each
//! with servers of its own.
//!
//! The players have databases of their own. Where somebody has written at the source, the
//! gateway may answer a block with 40001 in which PostgreSQL goes on: that ends the
//! comparison, and is counted. A block that home runs for the gateway, and that fails or goes
//! back to a savepoint, may have no locks at the source until it reads on: whoever waits for
//! them at PostgreSQL finds them free, and up to the end of the block its session must be
//! answered the same or with 40001.
//!
//! | module | room |
//! |---|---|
//! | [`step`] | what a step is, and sequences from a seed |
//! | [`play`] | a sequence at one player, and what counts as a difference |

pub mod play;
pub mod step;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::case_file;
use crate::dice::Dice;
use crate::lab::Lab;
use crate::options::Options;
use crate::world::{self, Player, World};
use play::{Seat, Verdict, judge};
use step::Step;

const SETUP: &str = include_str!("setup.txt");

/// Strategies in turn.
const STRATEGIES: [&str; 4] = ["auto", "home_join", "engine", "fallback"];

/// Failures that are made small.
const SHRUNK_MAX: usize = 10;

/// One in so many sequences may end with a refused block.
const CONFLICTS_PER: usize = 10;

/// A line for each so many sequences of a long run.
const REPORT_EVERY: usize = 1_000;

/// A worker of its own, with servers of its own, is worth it for so many sequences.
const PER_WORKER: usize = 500;

/// A block that is refused though nobody is known to have written is played again so often.
const ATTEMPTS_MAX: usize = 3;

/// A deliberate mistake of the gateway's player, to prove that the comparison can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The end of a transaction is forgotten.
    End,
    /// A write at the source is forgotten.
    Write,
}

#[derive(Default)]
struct Found {
    sequences: usize,
    steps: usize,
    conflicts: usize,
    let_go: usize,
    failures: Vec<String>,
}

/// Plays so many sequences; true when none differed.
///
/// # Errors
/// When the servers cannot be used.
pub fn run(options: &Options, lab: &Lab, count: usize) -> Result<bool, String> {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Found::default());
    let others = (options.threads - 1).min(count / PER_WORKER);
    let others: Vec<Lab> = match lab.is_own() {
        true => (0..others).map(|_| Lab::open(options)).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = std::iter::once(lab)
            .chain(&others)
            .map(|lab| scope.spawn(|| work(options, lab, (&next, count), &found)))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "the harness panicked".to_owned())?)
    })?;
    let sound = others
        .iter()
        .try_fold(true, |sound, lab| Ok::<_, String>(lab.has_no_defects()? && sound))?;
    let found = found.into_inner().map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} sequences of {} steps in {seconds:.0} s by {} workers; {} blocks refused with 40001 where a source was written; {} without the locks of what they undid",
        found.sequences,
        found.steps,
        others.len() + 1,
        found.conflicts,
        found.let_go
    );
    if !found.failures.is_empty() {
        println!("failed: {}", found.failures.join(", "));
    }
    let few = found.conflicts.max(found.let_go) <= 3 + found.sequences / CONFLICTS_PER;
    if !few {
        println!("too many blocks were refused");
    }
    println!("{} passed, {} failed", found.sequences - found.failures.len(), found.failures.len());
    Ok(found.failures.is_empty() && sound && few && found.sequences > 0)
}

/// Plays sequences until none is left: `(next, count)`.
fn work(
    options: &Options,
    lab: &Lab,
    (next, count): (&AtomicUsize, usize),
    found: &Mutex<Found>,
) -> Result<(), String> {
    let file = case_file::parse("sequences", SETUP)?;
    let world = World::create(lab, &file)?;
    let mut seats = (Seat::open(&world, Player::Oracle)?, Seat::open(&world, Player::Gateway)?);
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= count {
            break;
        }
        let seed = options.seed.wrapping_add(at as u64);
        let steps = step::sequence(&mut Dice::new(seed));
        let strategy = STRATEGIES[usize::try_from(seed % 4).unwrap_or(0)];
        let verdict = compare(&mut seats, &steps, strategy, options.mistake)?;
        let failures = {
            let mut found = found.lock().map_err(|error| error.to_string())?;
            found.sequences += 1;
            found.steps += verdict.steps;
            found.conflicts += usize::from(verdict.conflict);
            found.let_go += usize::from(verdict.let_go);
            if found.sequences.is_multiple_of(REPORT_EVERY) {
                eprintln!("{} sequences, {} failed", found.sequences, found.failures.len());
            }
            if verdict.wrong.is_none() {
                continue;
            }
            found.failures.push(format!("seed {seed}"));
            found.failures.len()
        };
        if options.mistake.is_none() && failures <= SHRUNK_MAX {
            let smallest = shrunk(&mut seats, steps.clone(), strategy, options.mistake)?;
            let last = compare(&mut seats, &smallest, strategy, options.mistake)?;
            match last.wrong {
                Some(_) => println!("{}", failure(seed, strategy, &smallest, &last)),
                // Not each time: then as it was found.
                None => println!("{}", failure(seed, strategy, &steps, &verdict)),
            }
        }
    }
    drop(seats);
    world::remove(world);
    Ok(())
}

fn compare(
    seats: &mut (Seat<'_, '_>, Seat<'_, '_>),
    steps: &[Step],
    strategy: &str,
    mistake: Option<Mistake>,
) -> Result<Verdict, String> {
    let oracle = seats.0.play(steps, strategy)?;
    let mut verdict = Verdict::default();
    for _ in 0..ATTEMPTS_MAX {
        let gateway = match mistake {
            None => seats.1.play(steps, strategy)?,
            Some(mistake) => seats.1.play(&mistaken(steps, mistake), strategy)?,
        };
        verdict = judge(steps, &oracle, &gateway);
        if !verdict.unexplained {
            return Ok(verdict);
        }
    }
    verdict.wrong = Some((verdict.steps.saturating_sub(1), "40001 again and again".to_owned()));
    Ok(verdict)
}

/// The steps with a mistake in them.
fn mistaken(steps: &[Step], mistake: Mistake) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for step in &mut steps {
        let writes = matches!(step, Step::Direct(..));
        for text in step.texts_mut() {
            let forgotten = match mistake {
                Mistake::End => text.as_str() == "commit and chain",
                Mistake::Write => writes && text.starts_with("update snap"),
            };
            if forgotten {
                "select 1".clone_into(text);
            }
        }
    }
    steps
}

/// The shortest part of a sequence that still fails.
fn shrunk(
    seats: &mut (Seat<'_, '_>, Seat<'_, '_>),
    mut steps: Vec<Step>,
    strategy: &str,
    mistake: Option<Mistake>,
) -> Result<Vec<Step>, String> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + size).min(steps.len()));
            if compare(seats, &fewer, strategy, mistake)?.wrong.is_some() {
                steps = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    Ok(steps)
}

fn failure(seed: u64, strategy: &str, steps: &[Step], verdict: &Verdict) -> String {
    let mut text = format!("FAILED seed {seed} ({strategy})\n");
    for step in steps {
        let _ = writeln!(text, "    {step:?}");
    }
    if let Some((at, difference)) = &verdict.wrong {
        let _ = writeln!(text, "  step {}: {difference}", at + 1);
    }
    text
}
