#![no_main]

#[path = "../borders.rs"]
#[allow(dead_code, reason = "one of them is this target's")]
mod borders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    borders::job(bytes);
});
