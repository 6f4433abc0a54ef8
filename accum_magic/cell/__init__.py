"""Reading cells: text in, code out. Knows the AST; never imports torch, IPython or a widget."""
