//! OpenPGP packets, as `keyring` takes them apart before it knows whose they are: what is written of them is read as the
//! same. The reader is a module of that tool, whose own tests have what is kept of this target.
#![no_main]

#[path = "../../tools/keyring/src/engine/native/packet.rs"]
#[allow(dead_code, reason = "keyring uses all of it")]
mod packet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(packets) = packet::parse(bytes) else {
        return;
    };
    let mut written = Vec::new();
    packets.iter().for_each(|p| p.write(&mut written));
    assert_eq!(packet::parse(&written), Ok(packets));
});
