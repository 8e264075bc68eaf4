//! The modules of a crate, read from its files, and what each imports from which other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemMod, UseTree, Visibility, visit::Visit};

/// A module's path within its crate, without `crate`.
pub(crate) type ModulePath = Vec<String>;

/// One crate, without its tests.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    /// Names that `use` brings in, as paths within the crate.
    imports: BTreeMap<String, Vec<String>>,
    /// Those of the imports that are public.
    exports: BTreeMap<String, Vec<String>>,
    /// `pub use path::*`.
    glob_exports: Vec<Vec<String>>,
    /// Paths within the crate that the file names.
    paths: BTreeSet<Vec<String>>,
    /// Types and traits that it defines.
    types: BTreeSet<String>,
}

impl Crate {
    /// Reads the crate whose root is this `lib.rs` or `main.rs`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut this = Self::default();
        this.read_file(root, root.parent().unwrap(), Vec::new());
        this
    }

    fn read_file(&mut self, file: &Path, folder: &Path, path: ModulePath) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let module = Module { file: file.to_owned(), ..Module::default() };
        self.modules.insert(path.clone(), module);
        let mut children = Vec::new();
        for item in &parsed.items {
            match item {
                Item::Mod(item) if is_test(&item.attrs) => {}
                Item::Mod(item) if item.content.is_none() => children.push(item.ident.to_string()),
                item => self.read_item(&path, item),
            }
        }
        for child in children {
            let beside = folder.join(format!("{child}.rs"));
            let inside = folder.join(&child).join("mod.rs");
            let file = if beside.is_file() { beside } else { inside };
            let path = [path.as_slice(), std::slice::from_ref(&child)].concat();
            self.read_file(&file, &folder.join(child), path);
        }
    }

    fn read_item(&mut self, path: &ModulePath, item: &Item) {
        let module = self.modules.get_mut(path).expect("the module was just inserted");
        match item {
            Item::Struct(item) => drop(module.types.insert(item.ident.to_string())),
            Item::Enum(item) => drop(module.types.insert(item.ident.to_string())),
            Item::Trait(item) => drop(module.types.insert(item.ident.to_string())),
            Item::Type(item) => drop(module.types.insert(item.ident.to_string())),
            _ => {}
        }
        let mut reader = Reader { module, own: path };
        reader.visit_item(item);
    }

    /// The module that defines the item of this path, as seen from the module `from`.
    fn resolve(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        let (mut at, rest) = match path.first().map(String::as_str)? {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                (from[..from.len().checked_sub(up)?].to_vec(), &path[up..])
            }
            first => {
                let child = [from.as_slice(), &[first.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    (child, &path[1..])
                } else {
                    let import = self.modules.get(from)?.imports.get(first)?;
                    let whole = [import.as_slice(), &path[1..]].concat();
                    return (depth < 8).then(|| self.resolve(from, &whole, depth + 1))?;
                }
            }
        };
        for (n, part) in rest.iter().enumerate() {
            let child = [at.as_slice(), std::slice::from_ref(part)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let module = self.modules.get(&at)?;
            let named = module.exports.get(part).filter(|_| at != *from);
            if let Some(export) = named
                && depth < 8
            {
                let whole = [export.as_slice(), &rest[n + 1..]].concat();
                return self.resolve(&at, &whole, depth + 1).or(Some(at));
            }
            return Some(at);
        }
        Some(at)
    }

    /// Which module imports from which other.
    pub(crate) fn edges(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let mut edges = BTreeSet::new();
        for (from, module) in &self.modules {
            for path in &module.paths {
                if let Some(to) = self.resolve(from, path, 0).filter(|to| to != from) {
                    edges.insert((from.clone(), to));
                }
            }
        }
        edges
    }

    /// The types of each module.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.modules.values().flat_map(|module| {
            module.types.iter().map(|name| (name.as_str(), module.file.as_path()))
        })
    }

    /// All modules of the crate.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &ModulePath> {
        self.modules.keys()
    }
}

/// Whether an item is compiled for tests only.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

struct Reader<'a> {
    module: &'a mut Module,
    own: &'a ModulePath,
}

impl Reader<'_> {
    fn read_use(&mut self, tree: &UseTree, before: &mut Vec<String>, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.read_use(&path.tree, before, is_public);
                before.pop();
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.read_use(tree, before, is_public));
            }
            UseTree::Name(name) => self.add_import(before, name.ident.to_string(), None, is_public),
            UseTree::Rename(name) => {
                let alias = Some(name.rename.to_string());
                self.add_import(before, name.ident.to_string(), alias, is_public);
            }
            UseTree::Glob(_) => {
                self.module.paths.insert(before.clone());
                if is_public {
                    self.module.glob_exports.push(before.clone());
                }
            }
        }
    }

    fn add_import(
        &mut self,
        before: &[String],
        name: String,
        alias: Option<String>,
        is_public: bool,
    ) {
        let is_self = name == "self";
        let mut path = before.to_vec();
        if !is_self {
            path.push(name);
        }
        let name = alias.or_else(|| path.last().cloned()).expect("a path names something");
        self.module.paths.insert(path.clone());
        self.module.imports.insert(name.clone(), path.clone());
        if is_public {
            self.module.exports.insert(name, path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.read_use(&item.tree, &mut Vec::new(), is_public);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) && !self.own.is_empty() {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            self.module.paths.insert(path.segments.iter().map(|it| it.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }
}
