# Sets the variable named `result` to what this machine lacks to build kept._native, or to "".
# A macro, since languages and packages must be found in the caller's scope.
macro(kept_check_toolchain result)
  include(CheckLanguage)
  check_language(CXX)
  if(NOT CMAKE_CXX_COMPILER)
    set(${result} "no working C++ compiler was found (install g++ or clang, or set CXX)")
  else()
    enable_language(CXX)
    kept_check_compiler(${result})
  endif()

  if(NOT ${result})
    # Development.Module is the headers alone: an extension never links libpython.
    find_package(Python 3.11 QUIET COMPONENTS Interpreter Development.Module)
    if(NOT Python_Development.Module_FOUND)
      set(${result} "the headers of this Python were not found (install python3-dev)")
    endif()
  endif()
endmacro()

# Kernels choose their instructions per function with GCC's and Clang's target attribute, so that
# one portable build serves every CPU; other compilers have no such thing.
function(kept_check_compiler result)
  set(name "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "^(GNU|Clang|AppleClang)$" OR MSVC)
    set(${result} "the compiler is ${name}; GCC or Clang is needed" PARENT_SCOPE)
  elseif(NOT "cxx_std_20" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
    set(${result} "the compiler is ${name}; C++20 needs GCC 11 or Clang 14" PARENT_SCOPE)
  else()
    include(CheckCXXSourceCompiles)
    set(CMAKE_CXX_STANDARD 20)
    check_cxx_source_compiles("#include <barrier>\nint main() { std::barrier<> b(1); }"
                              KEPT_HAS_BARRIER)
    if(NOT KEPT_HAS_BARRIER)
      set(${result} "the library of ${name} has no <barrier>; C++20 needs GCC 11 or Clang 14"
          PARENT_SCOPE)
    endif()
  endif()
endfunction()
