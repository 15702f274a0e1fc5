//! Which files of a dataset's repository hold the rows that are asked for.
//! Knows nothing of the network.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail, ensure};

use crate::data::files;

/// The files of a part, in order. A part is a file's name, `split`, or `folder/split`: the split of
/// `data/train-00000-of-00002.parquet` is `train` and its folder `data`, that of `all/train/0000.parquet` is `train`
/// and its folder `all`. Without a part, the repository must hold one only. Where it has Parquet files, others are
/// not looked at.
///
/// # Errors
/// When nothing fits, when several parts do, and when a shard is not among the files.
pub fn part(names: &[String], wanted: Option<&str>) -> Result<Vec<String>> {
    if let Some(file) = wanted.filter(|wanted| names.iter().any(|name| name == wanted)) {
        ensure!(files::is_table(Path::new(file)), "`{file}` is no file of rows");
        return Ok(vec![file.to_owned()]);
    }
    let mut tables: Vec<&String> = names.iter().filter(|name| files::is_table(Path::new(name))).collect();
    if tables.iter().any(|name| name.ends_with(".parquet")) {
        tables.retain(|name| name.ends_with(".parquet"));
    } else {
        // Settings of the repository and of its loader, which hold no rows.
        tables.retain(|name| !name.ends_with("dataset_infos.json") && !name.starts_with('.'));
    }
    let mut parts: BTreeMap<(String, String), Vec<Shard>> = BTreeMap::new();
    for name in &tables {
        let (folder, split, shard) = taken_apart(name);
        parts.entry((folder, split)).or_default().push(shard);
    }
    let shown = |(folder, split): &(String, String)| {
        if folder.is_empty() { format!("`{split}`") } else { format!("`{folder}/{split}`") }
    };
    let all = || parts.keys().map(shown).collect::<Vec<_>>().join(", ");
    let fits = |(folder, split): &&(String, String)| {
        wanted.is_none_or(|wanted| wanted == split || wanted == format!("{folder}/{split}"))
    };
    let fitting: Vec<&(String, String)> = parts.keys().filter(fits).collect();
    match (fitting[..].len(), wanted) {
        (1, _) => {
            let shards = &parts[fitting[0]];
            whole(shards).map(|()| shards.iter().map(|shard| shard.name.clone()).collect())
        }
        (0, _) if parts.is_empty() => bail!("it has no file of rows (Parquet, JSONL, JSON, CSV)"),
        (0, wanted) => bail!("it has no part `{}`; it has {}", wanted.unwrap_or_default(), all()),
        (_, Some(wanted)) => {
            let several = fitting.into_iter().map(shown).collect::<Vec<_>>().join(", ");
            bail!(
                "several of its parts are named `{wanted}`: {several}\n  hint: name one with its folder behind the `:`"
            )
        }
        (_, None) => bail!("it has several parts: {}\n  hint: name one behind a `:`", all()),
    }
}

struct Shard {
    name: String,
    /// Of how many it is one, where its name says so.
    of: Option<usize>,
}

/// Folder, split and shard of a file.
fn taken_apart(name: &str) -> (String, String, Shard) {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let mut stem = file;
    for extension in [".gz", ".zst", ".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"] {
        stem = stem.strip_suffix(extension).unwrap_or(stem);
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shard = |of| Shard { name: name.to_owned(), of };
    if let Some((before, count)) = stem.rsplit_once("-of-")
        && let Some((split, index)) = before.rsplit_once('-')
        && is_number(index)
    {
        // Some names carry a digest behind the count.
        let count = count.split('-').next().unwrap_or(count);
        return (folder.to_owned(), split.to_owned(), shard(count.parse().ok()));
    }
    if is_number(stem) {
        let (folder, split) = folder.rsplit_once('/').unwrap_or(("", folder));
        return (folder.to_owned(), split.to_owned(), shard(None));
    }
    (folder.to_owned(), stem.to_owned(), shard(None))
}

fn whole(shards: &[Shard]) -> Result<()> {
    let of = shards.iter().find_map(|shard| shard.of).unwrap_or(shards.len());
    ensure!(of == shards.len(), "of the {of} shards beside `{}` {} are there", shards[0].name, shards.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], wanted: Option<&str>) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        part(&names, wanted).map_or_else(|error| error.to_string(), |found| found.join(" "))
    }

    const SHARDED: [&str; 5] = [
        ".gitattributes",
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ];

    #[test]
    fn a_split_is_all_its_shards() {
        let train = "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet";
        assert_eq!(of(&SHARDED, Some("train")), train);
        assert_eq!(of(&SHARDED, Some("data/train")), train);
        assert_eq!(of(&SHARDED, Some("data/test-00000-of-00001.parquet")), "data/test-00000-of-00001.parquet");
        let converted = ["all/test/0000.parquet", "all/train/0000.parquet", "all/train/0001.parquet"];
        assert_eq!(of(&converted, Some("train")), "all/train/0000.parquet all/train/0001.parquet");
        assert_eq!(of(&["train.jsonl", "test.csv.gz", "a.py"], Some("test")), "test.csv.gz");
        assert_eq!(of(&["README.md", "train.jsonl", "x.json"], Some("train")), "train.jsonl");
    }

    #[test]
    fn what_is_not_clear_is_asked() {
        assert_eq!(
            of(&SHARDED, None),
            "it has several parts: `data/test`, `data/train`\n  hint: name one behind a `:`"
        );
        assert_eq!(of(&SHARDED, Some("dev")), "it has no part `dev`; it has `data/test`, `data/train`");
        assert_eq!(
            of(&["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"], Some("train")),
            "several of its parts are named `train`: `main/train`, `socratic/train`\n  hint: name one with its folder behind the `:`"
        );
        assert_eq!(of(&["only.parquet"], None), "only.parquet");
        assert_eq!(of(&["README.md"], None), "it has no file of rows (Parquet, JSONL, JSON, CSV)");
    }

    #[test]
    fn a_missing_shard_is_missed() {
        assert_eq!(
            of(&["data/train-00000-of-00002.parquet"], Some("train")),
            "of the 2 shards beside `data/train-00000-of-00002.parquet` 1 are there"
        );
    }
}
