//! Reads a pipeline's file with all that it includes: each under the file that asks for it.
//! Knows nothing of nodes beyond their names.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    code,
    diagnostic::{Diagnostic, Text},
    spec::{
        TOP_KEYS,
        merge::merge_files,
        tree::{Key, Shape, Tree},
        vars, yaml,
    },
    suggestion,
};

/// Files inside files, and all of them together: more is a mistake, not a pipeline.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 200;
/// A pipeline of a hundred thousand nodes is a tenth of that.
const MAX_BYTES: u64 = 64 << 20;

type Mistake = Box<Diagnostic>;

/// What was read besides the tree.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    root: &'a Path,
    /// The files that are being read, each included by the one before.
    open: Vec<(PathBuf, String)>,
    count: usize,
    /// All that were asked for, there or not, as they are opened.
    pub seen: BTreeSet<PathBuf>,
    /// The size of all texts together.
    pub bytes: usize,
    /// The variables that any file asks for, whatever becomes of the place where it does.
    pub used: BTreeSet<Vec<String>>,
    /// `defaults` and `seed` of the files that live under a name, the innermost first.
    pub own: Vec<Own>,
    pub mistakes: Vec<Diagnostic>,
}

/// What holds for the nodes of one file alone.
#[derive(Debug)]
pub(crate) struct Own {
    /// `eval/`
    pub prefix: String,
    pub defaults: Option<Tree>,
    pub seed: Option<Tree>,
}

impl<'a> Files<'a> {
    pub(crate) fn new(root: &'a Path, file: &Path) -> Self {
        let path = fs::canonicalize(file).unwrap_or_else(|_| root.join(file));
        Self {
            root,
            open: vec![(path, file.display().to_string())],
            count: 0,
            seen: BTreeSet::new(),
            bytes: 0,
            used: BTreeSet::new(),
            own: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// The values of a file over those of the files that it includes.
    pub(crate) fn read(&mut self, text: &Arc<Text>) -> Result<Tree, Mistake> {
        let mut tree = yaml::read(text, 0, &mut self.mistakes)?;
        self.bytes += text.body().len();
        if matches!(tree.shape, Shape::Null) {
            tree.shape = Shape::Block(Vec::new());
        }
        vars::used(&tree, &mut self.used);
        for (key, _) in tree.entries() {
            if !TOP_KEYS.contains(&key.name.as_str()) && !key.name.starts_with("x-") {
                let hint = suggestion::hint(&key.name, TOP_KEYS, "a pipeline has");
                let message = format!("unknown key `{}` of the pipeline", key.name);
                self.mistakes.push(key.mistake(code::UNKNOWN_KEY, message).hint(hint));
            }
        }
        let Some((_, includes)) = tree.remove("include") else { return Ok(tree) };
        let items = match includes.shape {
            Shape::List(items) => items,
            Shape::Null => Vec::new(),
            _ => vec![includes],
        };
        let mut below: Option<Tree> = None;
        for item in items {
            let included = self.include(&item, text)?;
            below = Some(match below {
                Some(below) => merge_files(below, included),
                None => included,
            });
        }
        Ok(match below {
            Some(below) if matches!(tree.shape, Shape::Block(_)) => merge_files(below, tree),
            _ => tree,
        })
    }

    /// The values of `lib/eval.yaml`, or of `{ file: lib/eval.yaml, as: eval }`.
    fn include(&mut self, item: &Tree, from: &Text) -> Result<Tree, Mistake> {
        let (written, path, name) = understood(item)?;
        let opened = self.root.join(&path);
        self.seen.insert(opened.clone());
        let real = fs::canonicalize(&opened).map_err(|_| {
            let hint = suggestion::file(Path::new(&path), self.root);
            Box::new(written.mistake(code::BAD_INCLUDE, format!("no file `{path}` to include")).hint(hint))
        })?;
        if let Some(start) = self.open.iter().position(|(open, _)| *open == real) {
            let circle: Vec<&str> = self.open[start..].iter().map(|(_, name)| name.as_str()).collect();
            let message = match circle[..] {
                [only] => format!("`{only}` includes itself"),
                _ => format!("files include each other in a circle: {} -> {}", circle.join(" -> "), circle[0]),
            };
            return Err(Box::new(written.mistake(code::BAD_INCLUDE, message)));
        }
        self.count += 1;
        if self.open.len() > MAX_DEPTH || self.count > MAX_FILES {
            let message = format!("more than {MAX_FILES} files, or {MAX_DEPTH} inside each other, are included");
            return Err(Box::new(written.mistake(code::BAD_INCLUDE, message)));
        }
        let body = read_text(&opened).map_err(|why| {
            Box::new(written.mistake(code::BAD_INCLUDE, format!("`{path}` cannot be included: {why}")))
        })?;
        let scope = from.scope().map(str::to_owned).chain(name.as_ref().map(|name| name.name.clone())).collect();
        let text = Arc::new(Text::included(path.clone(), body, written.span.clone(), scope));
        self.open.push((real, path));
        let tree = self.read(&text);
        self.open.pop();
        let mut tree = tree?;
        if !matches!(tree.shape, Shape::Block(_)) {
            let message = format!("an included file must be a block, found {}", tree.described());
            return Err(Box::new(tree.mistake(code::WRONG_TYPE, message)));
        }
        // A pipeline has its own name, whatever it is made of.
        tree.remove("name");
        Ok(match name {
            Some(name) => self.under(tree, &name, from),
            None => tree,
        })
    }

    /// All names of a file under one: nodes as `eval/report`, variables as `vars.eval.limit`.
    fn under(&mut self, mut tree: Tree, name: &Key, from: &Text) -> Tree {
        let scope: Vec<&str> = from.scope().chain([name.name.as_str()]).collect();
        let own = |tree: &mut Tree, key| tree.remove(key).map(|(_, value)| value);
        let (defaults, seed) = (own(&mut tree, "defaults"), own(&mut tree, "seed"));
        if defaults.is_some() || seed.is_some() {
            self.own.push(Own { prefix: scope.join("/") + "/", defaults, seed });
        }
        let Shape::Block(entries) = &mut tree.shape else { return tree };
        for (key, value) in entries.iter_mut() {
            if key.name != "profiles" {
                rename(key, value, name);
                continue;
            }
            let Shape::Block(profiles) = &mut value.shape else { continue };
            for (_, profile) in profiles {
                let Shape::Block(entries) = &mut profile.shape else { continue };
                for (key, value) in entries {
                    rename(key, value, name);
                    if ["defaults", "seed"].contains(&key.name.as_str()) {
                        let message = format!("a profile of a file included under a name cannot have `{}`", key.name);
                        let hint = "it can have `vars` and `nodes`".to_owned();
                        self.mistakes.push(key.mistake(code::BAD_INCLUDE, message).hint(hint));
                    }
                }
            }
        }
        tree
    }
}

fn rename(key: &Key, value: &mut Tree, name: &Key) {
    match (key.name.as_str(), &mut value.shape) {
        ("nodes", Shape::Block(nodes)) => {
            for (key, _) in nodes {
                key.name = format!("{}/{}", name.name, key.name);
            }
        }
        ("vars", Shape::Block(_)) => {
            let inner = mem::replace(value, Tree::block(&key.span));
            value.shape = Shape::Block(vec![(name.clone(), inner)]);
        }
        _ => (),
    }
}

/// The path, where it is written, and the name that all names of the file shall live under.
fn understood(item: &Tree) -> Result<(&Tree, String, Option<Key>), Mistake> {
    let wrong = |tree: &Tree| {
        let message = format!("`include` must be a file or a list of files, found {}", tree.described());
        let hint = "write `include: [lib/eval.yaml]`, or `[{ file: lib/eval.yaml, as: eval }]`".to_owned();
        Box::new(tree.mistake(code::WRONG_TYPE, message).hint(hint))
    };
    let path = |tree: &Tree| match &tree.shape {
        Shape::Text(path) if path.contains("${{") => {
            let hint = "files are put together before anything is computed".to_owned();
            Err(Box::new(tree.mistake(code::BAD_INCLUDE, "what is included cannot be computed").hint(hint)))
        }
        Shape::Text(path) if !path.is_empty() => Ok(path.clone()),
        _ => Err(wrong(tree)),
    };
    if !matches!(item.shape, Shape::Block(_)) {
        return Ok((item, path(item)?, None));
    }
    if let Some((key, _)) = item.entries().iter().find(|(key, _)| !["file", "as"].contains(&key.name.as_str())) {
        let hint = suggestion::hint(&key.name, ["file", "as"], "an include has");
        let message = format!("unknown key `{}` of an include", key.name);
        return Err(Box::new(key.mistake(code::UNKNOWN_KEY, message).hint(hint)));
    }
    let file = item.get("file").ok_or_else(|| wrong(item))?;
    let name = match item.get("as").map(|name| (name, &name.shape)) {
        None => None,
        Some((tree, Shape::Text(name))) if super::is_name(name) => {
            Some(Key { name: name.clone(), span: tree.span.clone(), notes: Vec::new() })
        }
        Some((tree, _)) => {
            let message = format!("{} cannot be a name for a file's nodes", tree.described());
            return Err(Box::new(tree.mistake(code::BAD_NAME, message).hint(super::NAME_HINT.to_owned())));
        }
    };
    Ok((file, path(file)?, name))
}

/// The text of a pipeline's file, or of one that it includes. What is no plain file is not opened: a pipe would be
/// waited for, and a device has no end.
///
/// # Errors
/// Why it cannot be one, to be said after its name.
pub fn read_text(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("it is a folder".into());
    }
    if !metadata.is_file() {
        return Err("it is no plain file".into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {} MiB", MAX_BYTES >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text))
}
