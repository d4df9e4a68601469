"""The stages that tasks are made of: each brings values from one adapter to the next."""
