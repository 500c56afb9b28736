"""Where ``distfa.words`` was."""

from distfa.words import counted as counted
from distfa.words import human_bytes as human_bytes
