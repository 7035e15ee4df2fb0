"""Exported networks: written, checked, and read back without running code from the file."""

from bertswin_ext.programs.export import export_program, export_programs
from bertswin_ext.programs.program import Program, load_program
from bertswin_ext.programs.tensorrt import compile_tensorrt

__all__ = ["Program", "compile_tensorrt", "export_program", "export_programs", "load_program"]
