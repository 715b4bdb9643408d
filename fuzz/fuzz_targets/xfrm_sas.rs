#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| meshsec::fuzzing::xfrm_sas(input));
