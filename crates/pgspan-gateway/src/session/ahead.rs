//! One trip less while home is still: the rows are fetched first, and home is asked in one
//! trip whether its snapshot is the one that it had before the fetch, and for the answer.
//!
//! postgres_fdw's order is home's snapshot, then the source's. A snapshot that
//! [`pgspan_sql::ask::is_still`] and is the same before and after the fetch sees the same
//! rows as one taken before the fetch would have: nothing has been committed in between.
//! If it is another, what came is thrown away and the statement runs in the usual order.
//! What can tell the order besides is the clock, so a statement that may look at it is not
//! run this way.

use super::home::Around;
use super::query::{Request, describe_clients, refused};
use super::state::receive_for;
use super::still::Question;
use super::stop::{Stop, hung_up};
use super::{End, Session};
use crate::sources::CachedPlan;
use crate::strategy::home_join;
use pgspan_pool::ServerError;
use pgspan_sql::analyze::Kind;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Route;
use pgspan_sql::{clock, plan};
use pgspan_wire::backend::{self, ErrorFields, TransactionStatus};

/// What came of an attempt to fetch first.
pub(super) enum Ahead {
    /// The client has its answer.
    Answered(Route),
    /// The usual order is to be used.
    No,
    /// The plan does not hold.
    Stale,
}

impl Session {
    /// Whether the fetch may go first.
    fn may_fetch_first(
        &self,
        request: &Request,
        around: Around,
        question: Question<'_>,
        plan: &CachedPlan,
    ) -> bool {
        around == Around::Own
            && plan.analysis.kind == Kind::Select
            && plan.analysis.timeless
            && plan.plan.repeatable
            && plan.settles.is_empty()
            && clock::are_timeless_types(&plan.parameters)
            && request.batch.as_ref().map_or(0, |b| b.bind.params.len()) == plan.parameters.len()
            // What is thrown away if the guess was wrong is little.
            && plan.plan.fetches.iter().all(|f| f.keys.is_none() && f.table_rows < plan::SMALL_ROWS)
            && self.still.expects(question, &plan.fingerprint, &self.server)
    }

    /// Runs a statement whose plan is known in two trips. Unless it is answered, nothing has
    /// been sent to the client, and home is outside a transaction.
    pub(super) async fn fetch_first(
        &mut self,
        request: &Request,
        around: Around,
        question: Question<'_>,
        plan: &CachedPlan,
    ) -> Result<Ahead, Stop> {
        if !self.may_fetch_first(request, around, question, plan) {
            return Ok(Ahead::No);
        }
        let keys = vec![None; plan.plan.fetches.len()];
        let fetched = match self.fetch(plan, &keys, around).await {
            Ok(fetched) => fetched,
            Err(Stop::GiveUp(reason)) => {
                self.still.doubt();
                return match reason.cause {
                    Cause::SourceBusy => Err(reason.into()),
                    // The source is not what the plan takes it for.
                    Cause::SourceError | Cause::OtherTypes => Ok(Ahead::Stale),
                    _ => Ok(Ahead::No),
                };
            }
            Err(other) => return Err(other),
        };
        self.stop_if_cancelled()?;
        let ran = home_join::run_opened(self, request, around, plan, &fetched, question).await?;
        Ok(ran.map_or(Ahead::No, Ahead::Answered))
    }

    /// Appends the opening; gives the number of statements before the question.
    pub(crate) async fn open_with(
        &mut self,
        request: &Request,
        around: Around,
        plan: &CachedPlan,
        question: Question<'_>,
    ) -> Result<usize, Stop> {
        let before = self.open(request, around, plan, question, false).await?;
        describe_clients(&mut self.server, request);
        Ok(before)
    }

    /// Reads home's answer to the opening. `false`: home is not what it was; everything has
    /// been read, and the transaction is over.
    pub(crate) async fn opened_with(
        &mut self,
        request: &Request,
        around: Around,
        plan: &CachedPlan,
        question: Question<'_>,
        before: usize,
    ) -> Result<bool, Stop> {
        let mut row = Vec::new();
        let mut missing = before + 1;
        let mut described = request.batch.is_none();
        while missing > 0 || !described {
            let frame = receive_for(&mut self.server, &mut self.client).await?;
            let wire = |e| Stop::from(ServerError::from(e));
            match frame.tag {
                b'D' => row = backend::data_row(frame.body()).map_err(wire)?,
                b'C' => missing -= 1,
                b'T' | b'n' => described = true,
                b'S' | b'A' => self.client.outbox.extend_from_slice(&frame.raw),
                b'E' => {
                    let error = ErrorFields::read(&frame);
                    self.server.prepared.doubt_all();
                    self.drain(Some(&error)).await?;
                    return Err(refused(ServerError::Sql(error)));
                }
                b'Z' => {
                    let text = "an answer without an end".to_owned();
                    return Err(Stop::End(End::Server(text)));
                }
                _ => {}
            }
        }
        let mut values = row.into_iter().map(Option::unwrap_or_default);
        let answer = [(); 3].map(|()| values.next().unwrap_or_default());
        let Session { still, server, .. } = self;
        if still.confirms(question, &plan.fingerprint, server, &answer) {
            return Ok(true);
        }
        self.drain(None).await?;
        if self.server.status == TransactionStatus::Idle {
            self.opened = false;
        }
        self.undo(around).await.map_err(Stop::from)?;
        Ok(false)
    }

    /// Reads up to ReadyForQuery what nobody wants, behind an error if there was one.
    async fn drain(&mut self, error: Option<&ErrorFields>) -> Result<(), Stop> {
        let mut last = error.cloned();
        loop {
            let frame = receive_for(&mut self.server, &mut self.client)
                .await
                .map_err(|stop| hung_up(stop, last.as_ref()))?;
            match frame.tag {
                b'S' | b'A' => self.client.outbox.extend_from_slice(&frame.raw),
                b'E' => {
                    // Which of the statements exist is not known.
                    self.server.prepared.doubt_all();
                    last = Some(ErrorFields::read(&frame));
                }
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }
}
