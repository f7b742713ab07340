#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fieldpost_fuzz_bodies::agent_spool(data));
