//! What every engine must do, as tests that any engine runs: one behaviour each, named for it.
//!
//! An engine gives a [`Harness`] and calls [`conformance_tests!`](crate::conformance_tests), which makes one test of
//! each case, or [`all`], which runs them in turn. Time passes only where the harness lets it; a case waits for
//! events, with a deadline, never for time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests, only built where they run")]

pub mod channels;
pub mod engine;
pub mod history;
pub mod keyed;
pub mod presence;
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::broker::Broker;

/// One engine, fresh, with two nodes on it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The first node's handle.
    fn broker(&self) -> Arc<dyn Broker>;

    /// Another node's handle to the same engine.
    fn peer(&self) -> Arc<dyn Broker>;

    /// Lets the engine's time pass, and waits until it has dropped what that ends.
    async fn advance(&self, by: Duration);

    /// The engine stops to answer.
    async fn go_away(&self);

    /// The engine answers again, as it was.
    async fn come_back(&self);

    /// The engine has lost its channels and its values, and says so by a new incarnation.
    async fn lose_data(&self);

    /// The engine stops and starts again with whatever it keeps. Handles from before are not used afterwards.
    async fn restart(&mut self);
}

/// A case as a value.
pub type Case = for<'a> fn(&'a mut dyn Harness) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Runs every case, each on an engine of its own.
pub async fn all<H: Harness>(make: impl AsyncFn() -> H) {
    for (name, case) in CASES {
        tracing::info!(case = name, "conformance");
        case(&mut make().await).await;
    }
}

/// Declares the cases once: for [`all`], and for the macro that makes tests of them.
macro_rules! cases {
    ($($module:ident { $($case:ident),* $(,)? })*) => {
        /// Every case with its name.
        pub const CASES: &[(&str, Case)] = &[
            $($((concat!(stringify!($module), "::", stringify!($case)), |h| Box::pin($module::$case(h))),)*)*
        ];

        /// Makes one `#[tokio::test]` of every case. The argument is an async function that makes a fresh harness.
        #[macro_export]
        macro_rules! conformance_tests {
            ($make:path) => {
                $($(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        $crate::conformance::$module::$case(&mut $make().await).await;
                    }
                )*)*
            };
        }
    };
}

cases! {
    channels {
        offsets_rise_and_every_publication_knows_its_predecessor,
        a_subscriber_gets_what_is_published_after_it_attached,
        nodes_hear_each_other,
        an_absent_channel_answers_now_and_zero,
        a_position_before_the_first_publication_misses_nothing,
        a_known_position_is_continued_without_loss_or_repeat,
        an_offset_beyond_the_head_is_a_gap,
        a_foreign_epoch_is_a_gap,
        attachments_of_one_channel_share_its_log,
        who_left_can_come_back,
        live_counts_subscriptions,
        racing_publishers_are_put_in_one_order,
        an_idempotency_key_publishes_once,
        racing_publications_of_one_key_publish_once,
        an_idempotency_key_is_forgotten_in_time,
        idempotency_keys_are_per_channel_and_bounded_in_length,
        a_slow_cursor_is_told_a_gap,
        a_publication_whose_own_time_is_over_is_a_gap,
    }
    history {
        without_limits_there_is_no_history,
        count_limits_the_history,
        bytes_limit_the_history,
        age_limits_the_history,
        pages_run_both_ways,
        a_page_after_a_position_says_whether_it_is_whole,
        kind_sender_time_and_data_come_back,
        the_pair_outlives_the_history,
        a_forgotten_channel_tells_a_gap,
        racing_detach_and_publish_lose_nothing,
    }
    presence {
        members_come_and_go_on_all_nodes,
        joining_again_replaces,
        a_list_is_cut_but_the_total_is_true,
        presence_ends_with_its_lease,
        a_lease_that_ended_joins_nobody,
        moving_to_another_lease_survives_the_first,
    }
    keyed {
        a_value_is_there_until_deleted,
        absent_lets_one_of_many_win,
        a_revision_is_used_once,
        a_stale_fence_is_refused,
        a_fence_is_compared_by_number_then_node,
        a_deletion_obeys_its_condition,
        a_ttl_ends_a_value_and_a_write_renews_it,
        a_lease_ends_its_values_when_dropped,
        a_lease_ends_unless_renewed,
        an_abandoned_lease_lives_out_its_ttl,
        a_value_that_left_its_lease_stays,
        bad_keys_and_lives_are_refused,
        a_watch_begins_with_the_whole_state,
        a_watch_sees_only_its_prefix,
        a_watch_is_told_what_expires,
        a_watch_loses_nothing_while_others_write,
        a_watch_that_overflows_is_given_the_whole_state,
    }
    engine {
        fences_rise_over_all_nodes,
        fences_rise_over_a_restart,
        a_node_answers_another,
        a_node_that_nobody_knows_answers_nothing,
        a_late_answer_is_an_error,
        an_engine_that_is_away_says_so,
        lost_data_is_a_new_incarnation_and_a_gap,
        a_restart_never_continues_what_it_does_not_have,
        values_that_live_for_ever_survive_a_restart,
    }
}
