//! What a plugin imports: files beside it, inside the project, all read before anything runs.
//! Knows nothing of what the imported functions do.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex},
};

use ::engine::Cancel;
use rhai::{AST, ASTNode, Dynamic, Engine, EvalAltResult, Expr, Module, ModuleResolver, Position, Scope, Shared, Stmt};

use super::{
    error::Error,
    sandbox::{self, Limits},
};
use crate::bounded::{self, Stopped};

/// The files that a plugin imports, and those that these import, in order of their paths. Their bytes
/// decide what the plugin does as much as its own.
///
/// # Errors
/// An [`Error`] where a file is missing or is not valid Rhai, or an import is not a literal relative path.
pub fn imports(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let root = std::env::current_dir().unwrap_or_default();
    let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
    let (path, limits) = (path.to_path_buf(), Limits::default());
    let bounds = limits.bounds();
    let work = move |()| sandbox::timed(&limits, || imports_of(&path, &root, &limits));
    let found = bounded::run(1, bounds, &Cancel::default(), &|_| (), work);
    match found {
        Ok(mut one) => Ok(one.pop().expect("one piece of work has one result")),
        Err(Stopped::Failed { error, .. }) => Err(error.into()),
        Err(Stopped::GivenUp { why, .. }) => Err(Error::new(format!("reading it was {why}"), &name).into()),
        Err(Stopped::Cancelled) => unreachable!("nobody can cancel it"),
    }
}

fn imports_of(path: &Path, root: &Path, limits: &Limits) -> Result<Vec<PathBuf>, Error> {
    let params = Dynamic::from_map(<_>::default());
    let engine = sandbox::engine(limits, params, Library::default(), Cancel::default());
    let mut found = BTreeSet::new();
    let mut left = vec![path.to_path_buf()];
    while let Some(path) = left.pop() {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let file = File::read(&engine, &path, &name, limits)?;
        for import in file.imports()? {
            let path = beside(&path, &import.literal);
            if !path.exists() {
                return Err(file.missing(&import));
            }
            if found.insert(path.clone()) {
                left.push(path);
            }
        }
    }
    found.remove(path);
    Ok(found.into_iter().collect())
}

/// A plugin with everything it imports compiled into the engine's library.
pub(super) struct Loaded {
    pub ast: AST,
    pub name: String,
    pub texts: BTreeMap<String, String>,
}

pub(super) fn load(
    engine: &Engine,
    library: &Library,
    path: &Path,
    root: &Path,
    limits: &Limits,
) -> Result<Loaded, Error> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        Error::new(format!("cannot read the file: {error}"), &path.display().to_string())
    };
    let shown = path.strip_prefix(root).unwrap_or(path);
    let root = root.canonicalize().map_err(|error| unreadable(root, &error))?;
    let path = path.canonicalize().map_err(|error| unreadable(shown, &error))?;
    // A pipeline may name a plugin that lies elsewhere; what it imports then lies beside or below it.
    let confines = if path.starts_with(&root) { &root } else { path.parent().expect("a file lies in a folder") };
    let mut loader =
        Loader { engine, library, root: &root, confines, limits, texts: BTreeMap::new(), open: Vec::new() };
    let (name, ast) = loader.file(&path)?;
    Ok(Loaded { ast, name, texts: loader.texts })
}

/// The imported modules, by the importing file's name and the path written there.
type Modules = BTreeMap<(String, String), Shared<Module>>;

/// Where the engine finds what a plugin imports. It reads no files: all of them were read before.
#[derive(Clone, Default)]
pub(super) struct Library(Arc<Mutex<Modules>>);

impl ModuleResolver for Library {
    fn resolve(
        &self,
        _: &Engine,
        importer: Option<&str>,
        literal: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let modules = self.0.lock().expect("no holder of this lock panics");
        let key = (importer.unwrap_or_default().to_string(), literal.to_string());
        modules.get(&key).cloned().ok_or_else(|| EvalAltResult::ErrorModuleNotFound(key.1, position).into())
    }
}

/// An `import` statement.
struct Import {
    literal: String,
    position: Position,
}

struct File {
    name: String,
    text: String,
    ast: AST,
}

impl File {
    fn read(engine: &Engine, path: &Path, name: &str, limits: &Limits) -> Result<Self, Error> {
        let text = text(path, limits.file_bytes).map_err(|why| Error::new(why, name))?;
        // A variable of this name exists when the plugin runs; its value must not be folded into the code here.
        let mut known = Scope::new();
        known.push("params", ());
        let mut ast = engine
            .compile_with_scope(&known, &text)
            .map_err(|error| Error::parsing(error.err_type(), error.position(), name, &text))?;
        ast.set_source(name);
        Ok(Self { name: name.into(), text, ast })
    }

    fn imports(&self) -> Result<Vec<Import>, Error> {
        let mut found = Vec::new();
        self.ast.walk(&mut |path| {
            if let Some(ASTNode::Stmt(Stmt::Import(import, position))) = path.last() {
                found.push(match &import.0 {
                    Expr::StringConstant(literal, position) => {
                        Ok(Import { literal: literal.to_string(), position: *position })
                    }
                    _ => Err(*position),
                });
            }
            true
        });
        let check = |import: Result<Import, Position>| {
            let refuse = |message: &str, position| Error::new(message, &self.name).at(position, &self.text);
            match import {
                Err(position) => Err(refuse("an import's path is literal text", position)),
                Ok(import) if Path::new(&import.literal).is_absolute() => {
                    Err(refuse("an import's path is relative to the importing file", import.position))
                }
                Ok(import) => Ok(import),
            }
        };
        found.into_iter().map(check).collect()
    }

    fn missing(&self, import: &Import) -> Error {
        Error::new(format!("no file `{}` to import", import.literal), &self.name).at(import.position, &self.text)
    }
}

struct Loader<'a> {
    engine: &'a Engine,
    library: &'a Library,
    /// Where the paths in messages start.
    root: &'a Path,
    /// Where every import lies.
    confines: &'a Path,
    limits: &'a Limits,
    texts: BTreeMap<String, String>,
    /// The files being loaded, each importing the next.
    open: Vec<PathBuf>,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path) -> Result<(String, AST), Error> {
        let name = path.strip_prefix(self.root).unwrap_or(path).display().to_string();
        let file = File::read(self.engine, path, &name, self.limits)?;
        self.texts.insert(name.clone(), file.text.clone());
        self.open.push(path.to_path_buf());
        for import in file.imports()? {
            let imported = self.imported(path, &file, &import)?;
            let (module_name, ast) = self.file(&imported)?;
            let module = self.module(&module_name, &ast)?;
            let mut modules = self.library.0.lock().expect("no holder of this lock panics");
            modules.insert((name.clone(), import.literal), module);
        }
        self.open.pop();
        Ok((name, file.ast))
    }

    fn imported(&self, importer: &Path, file: &File, import: &Import) -> Result<PathBuf, Error> {
        let path = beside(importer, &import.literal).canonicalize().map_err(|_| file.missing(import))?;
        let refuse = |message: String| Err(Error::new(message, &file.name).at(import.position, &file.text));
        if !path.starts_with(self.confines) {
            return refuse(format!("`{}` lies outside of the project", import.literal));
        }
        if self.open.contains(&path) {
            return refuse(format!("`{}` imports itself", import.literal));
        }
        Ok(path)
    }

    fn module(&self, name: &str, ast: &AST) -> Result<Shared<Module>, Error> {
        let mut module = Module::eval_ast_as_new(Scope::new(), ast, self.engine)
            .map_err(|error| Error::running(&error, self.engine, name, &self.texts, self.limits))?;
        module.build_index();
        Ok(module.into())
    }
}

/// The text of a plugin's file. A pipe would be waited for, and a device has no end.
fn text(path: &Path, most: usize) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot read the file: {error}");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("cannot read the file: it is no plain file".into());
    }
    if metadata.len() > most as u64 {
        return Err(format!("a plugin has at most {most} bytes; this one has {}", metadata.len()));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The file that `literal` names in an import of `importer`.
fn beside(importer: &Path, literal: &str) -> PathBuf {
    let mut path = importer.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(literal).components() {
        match part {
            Component::CurDir => (),
            Component::ParentDir if path.file_name().is_some() => _ = path.pop(),
            part => path.push(part),
        }
    }
    if path.extension().is_none_or(|extension| extension != "rhai") {
        path.as_mut_os_string().push(".rhai");
    }
    path
}
