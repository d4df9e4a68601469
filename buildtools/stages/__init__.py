"""The stages that tasks consist of: each passes values from one adapter to the next."""
