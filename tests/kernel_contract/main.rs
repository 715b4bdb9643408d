//! The promises of every kernel, asked of the one in memory and of the real one.
//!
//! The real one needs root and ESP, so those tests are ignored unless asked
//! for, as `cargo xtask test` does in a virtual machine. Each has a network
//! namespace of its own.

mod bench;
mod chains;
mod networks;
mod numbers;
mod real;
mod suite;
mod ways;

/// Runs each function of the suite on both kernels.
macro_rules! contract {
    ($($case:ident)*) => {
        mod on_memory {
            $(#[test]
            fn $case() {
                crate::bench::on_memory(crate::suite::$case);
            })*
        }

        mod on_linux {
            $(#[test]
            #[ignore = "needs a kernel with ESP: cargo xtask test"]
            fn $case() {
                crate::bench::on_linux(crate::suite::$case);
            })*
        }
    };
}

contract! {
    an_sa_is_observed_as_it_was_added
    a_policy_is_observed_as_it_was_added
    an_sa_without_a_selector_stays_without
    adding_an_sa_twice_is_eexist
    another_source_is_the_same_sa
    another_spi_protocol_or_destination_is_another_sa
    deleting_what_is_absent_is_done
    replacing_an_sa_changes_its_key_source_and_window
    replacing_an_absent_sa_adds_it
    a_replacement_that_is_refused_leaves_no_sa
    updating_a_policy_replaces_it_whatever_its_priority
    updating_an_absent_policy_adds_it
    updating_never_takes_over_a_foreign_policy
    an_index_of_its_own_is_kept
    an_index_that_is_taken_is_not_kept
    adding_a_policy_twice_is_eexist_and_leaves_the_first
    the_priority_is_no_part_of_a_policys_identity
    mark_interface_and_direction_are_part_of_it
    a_changed_policy_is_not_deleted
    a_policy_that_is_as_expected_is_deleted
    a_batch_goes_on_after_a_refusal_and_answers_in_order
    answers_are_in_order_over_several_windows
    pairs_are_not_parted_by_the_end_of_a_window
    a_wait_between_steps_is_waited
    an_interface_is_observed_as_it_was_added
    an_interface_of_a_taken_name_or_number_is_eexist
    an_interface_is_set_to_what_is_wanted
    only_the_interface_of_that_name_and_number_is_deleted
    an_address_is_observed_as_it_was_added
    a_route_is_observed_as_it_was_added
    only_a_route_that_is_as_given_is_deleted
    routes_go_with_the_interface_and_blackholes_stay
    a_route_needs_its_device_up_and_its_source_here
    a_route_that_no_mesh_has_is_refused
    a_chain_is_observed_as_it_was_set
    setting_a_chain_replaces_it_and_what_leads_to_it
    deleting_a_chain_takes_what_leads_to_it_and_an_absent_one_is_done
    a_chain_of_another_name_or_with_other_rules_is_refused
    a_devices_mtu_is_set_and_observed
    an_mtu_that_no_device_takes_is_einval
    an_mtu_of_an_absent_device_is_enodev
    an_offload_that_a_device_can_not_do_is_dropped
    an_offload_to_an_absent_device_is_enodev
    esn_without_a_window_is_einval
    a_window_above_4096_is_einval
    more_than_six_templates_are_einval
    what_no_step_can_express_is_refused
    a_key_of_the_wrong_length_is_refused
    foreign_keys_have_no_fingerprint
    a_larval_sa_of_ours_is_taken_over
    a_foreign_larval_sa_is_left_alone
    thousands_are_observed_whole_and_sorted
    an_sa_begins_at_the_seed_of_the_moment
    a_clock_outside_of_the_generation_is_an_error
    an_sa_that_is_replaced_under_its_key_goes_on
    another_key_begins_anew
    numbers_go_on_where_the_window_is_turned_off
    what_never_sent_has_nothing_to_go_on_from
    an_sa_ends_when_it_should
    an_sa_that_would_have_ended_is_an_error
    only_ours_have_a_usage
}
