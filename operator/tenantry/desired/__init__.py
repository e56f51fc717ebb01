"""Pure builders: one resolved tenant in, what must exist out."""
