"""The built-in backbones. No other package imports them: the registry finds each module through pluggy."""
