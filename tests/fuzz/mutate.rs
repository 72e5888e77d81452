//! Damage: what bad disks, bad peers and hasty hands do to good bytes.

use tidegate_engine::testing::seed::Seed;

/// Longest input that is made.
const BYTES_MAX: usize = 8 << 10;

/// What numbers in a file are where somebody forgot to look.
const EXTREMES: &[u64] = &[
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
];

/// Text that means something to one reader or other.
const WORDS: &[&str] = &[
    "\"",
    "\"\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    ";",
    "\n",
    "\r\n",
    "\t",
    "\\",
    "\\u0000",
    "\\ud800",
    "\0",
    "${",
    "}",
    "null",
    "true",
    "-",
    "-0",
    "1e999",
    "1e-999",
    "0.1",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "NaN",
    "é",
    "\u{feff}",
    "\u{1d11e}",
    "2024-02-29T23:59:60Z",
    "0000-01-01T00:00:00+23:59",
    "#",
    "=",
    ".",
    "\"\"\"",
    "[[",
    "]]",
    "+",
    "/",
    "$",
    "0s",
    "99999999999d",
    "0x",
];

/// A kept input with one to eight things done to it.
pub(crate) fn mutate(kept: &[Vec<u8>], random: &mut Seed) -> Vec<u8> {
    let mut input = kept[random.below(kept.len())].clone();
    let mut times = 1;
    while times < 8 && random.chance(50) {
        times += 1;
    }
    for _ in 0..times {
        change(&mut input, &kept[random.below(kept.len())], random);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Seed) {
    let at = random.below(input.len() + 1);
    match random.below(12) {
        0 | 1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = low(random.number());
            }
        }
        3 | 4 => length(input, at, random),
        5 => digits(input, at, random),
        6 => insert(input, at, WORDS[random.below(WORDS.len())].as_bytes()),
        7 => insert(input, at, &vec![low(random.number()); random.below(20)]),
        // Cut off, cut out, repeated, from somewhere else.
        8 => input.truncate(at),
        9 => drop(input.drain(part(at, input.len(), random))),
        10 => {
            let part = input[part(at, input.len(), random)].to_vec();
            let times = if random.chance(10) { 1 + random.below(200) } else { 1 };
            insert(input, at, &part.repeat(times));
        }
        _ => {
            let from = random.below(other.len() + 1);
            let part = other[part(from, other.len(), random)].to_vec();
            if random.chance(50) {
                input.truncate(at);
            }
            insert(input, at, &part);
        }
    }
}

/// A part that begins at `at`, short more often than long.
fn part(at: usize, length: usize, random: &mut Seed) -> std::ops::Range<usize> {
    let most = if random.chance(70) { 16 } else { length };
    at..(at + random.below(most + 1)).min(length)
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if input.len() + bytes.len() <= BYTES_MAX {
        input.splice(at..at, bytes.iter().copied());
    }
}

/// Writes an extreme number, or the true length by a little, over what is there.
fn length(input: &mut [u8], at: usize, random: &mut Seed) {
    let rest = (input.len() - at) as u64;
    let number = match random.below(4) {
        0 => rest.wrapping_sub(random.below(10) as u64),
        1 => rest.wrapping_add(random.below(10) as u64),
        _ => EXTREMES[random.below(EXTREMES.len())],
    };
    let width = [1, 2, 4, 8][random.below(4)];
    let little = number.to_le_bytes();
    let big = number.to_be_bytes();
    let bytes = if random.chance(60) { &little[..width] } else { &big[8 - width..] };
    input[at..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
}

/// Puts another number in the place of the next one that is written in digits.
fn digits(input: &mut Vec<u8>, at: usize, random: &mut Seed) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else { return };
    let start = at + start;
    let count = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = EXTREMES[random.below(EXTREMES.len())].to_string();
    input.splice(start..start + count, number.into_bytes());
}

fn low(number: u64) -> u8 {
    number.to_le_bytes()[0]
}
