//! Merkle trees after RFC 6962 §2.1: hashes of leaves and of nodes cannot be taken for one another.

use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// SHA-256(0x00 ‖ data).
pub fn leaf(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The largest power of two below `n`, for n ≥ 2.
fn split(n: usize) -> usize {
    (n / 2 + n % 2).next_power_of_two()
}

/// The root over leaf hashes; SHA-256 of nothing for none.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The hashes that lead from leaf `index` to the root, lowest first; `None` if there is no such leaf.
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that a proof leads to, or `None` if it has not the length that index and size demand.
pub fn root_from_proof(leaf: Hash, index: usize, size: usize, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    // From the root down: which side the leaf is on at each level.
    let (mut sides, mut index, mut size) = (Vec::new(), index, size);
    while size > 1 {
        let at = split(size);
        if index < at {
            sides.push(true);
            size = at;
        } else {
            sides.push(false);
            index -= at;
            size -= at;
        }
    }
    if sides.len() != path.len() {
        return None;
    }
    let steps = sides.iter().rev().zip(path);
    Some(
        steps.fold(
            leaf,
            |hash, (on_left, other)| if *on_left { node(&hash, other) } else { node(other, &hash) },
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The test tree of the Certificate Transparency reference implementation (google/certificate-transparency,
    /// `merkle_tree_test.cc`): its leaves, and its roots at sizes 1 to 8.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_reference() {
        let hex = data_encoding::HEXLOWER;
        let leaves: Vec<_> = LEAVES.iter().map(|text| leaf(&hex.decode(text.as_bytes()).unwrap())).collect();
        for (size, expected) in (1..).zip(ROOTS) {
            assert_eq!(hex.encode(&root(&leaves[..size])), expected, "{size}");
        }
    }

    proptest! {
        #[test]
        fn every_leaf_is_proved_at_its_place_and_nowhere_else(size in 1_usize..70, flip in any::<u8>()) {
            let leaves: Vec<_> = (0..size).map(|n| leaf(&n.to_be_bytes())).collect();
            let root = root(&leaves);
            for index in 0..size {
                let path = proof(&leaves, index).unwrap();
                prop_assert_eq!(root_from_proof(leaves[index], index, size, &path), Some(root));
                let elsewhere = (index + 1 + usize::from(flip)) % size;
                if elsewhere != index {
                    prop_assert_ne!(root_from_proof(leaves[index], elsewhere, size, &path), Some(root));
                }
                if !path.is_empty() {
                    let mut bad = path.clone();
                    let at = usize::from(flip) % bad.len();
                    bad[at][0] ^= 1;
                    prop_assert_ne!(root_from_proof(leaves[index], index, size, &bad), Some(root));
                    prop_assert_eq!(root_from_proof(leaves[index], index, size, &path[1..]), None);
                }
            }
            prop_assert_eq!(proof(&leaves, size), None);
        }
    }
}
